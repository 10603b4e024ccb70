"""A bundle that may serve: where it lies, which version it is, what its check found."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from inference_server.bundle_check.report import CheckReport
from inference_server.supervisor.registry import RegisteredVersion

_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedBundle:
    """One opening of a folder that passed the check. Equal to itself alone: a folder may be opened again."""

    directory: Path
    version: RegisteredVersion
    variant: str
    """The alias it is served under; empty without a registry."""
    report: CheckReport
    number: int = field(default_factory=lambda: next(_numbers))

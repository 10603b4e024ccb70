"""A bundle that may serve: its folder, its version, and the report of its check."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from inference_server.bundle_check.report import CheckReport
from tandem.ops.model_registry import RegisteredVersion

_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedBundle:
    """One opening of a folder that passed the check. Compared by identity, because a folder may be opened twice.
    It may serve under several names."""

    directory: Path
    version: RegisteredVersion
    report: CheckReport
    number: int = field(default_factory=lambda: next(_numbers))

"""Small JSON files in the data folder, which a crash leaves as they were or as they should be, never in between."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference_server.supervisor.registry import RegisteredVersion


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Replaces a file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f"{path.name}.{os.getpid()}")
    staging.write_text(json.dumps(record))
    staging.replace(path)


def read_json(path: Path) -> Mapping[str, Any]:
    """What a file holds; nothing where there is none or it is damaged: what it says can be found out again."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def version_from_fields(fields: object) -> RegisteredVersion | None:
    """A version from what `asdict` made of it; None where that is something else."""
    if not isinstance(fields, dict):
        return None
    try:
        return RegisteredVersion(**fields)
    except TypeError:
        return None

"""Small JSON files in the data folder. After a crash a file has its old or its new content, never a mixture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.contract.whole_files import write_whole
from tandem.ops.model_registry import RegisteredVersion


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Replaces the content of a file, atomically. Raises OSError."""
    write_whole(path, json.dumps(record))


def read_json(path: Path) -> Mapping[str, Any]:
    """The content of a file; empty if the file is missing or damaged, because everything in it can be found out
    again."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def fields_of_version(version: RegisteredVersion) -> dict[str, str]:
    """The fields of a version that files record: those that make two versions equal."""
    return {"number": version.number, "model_version": version.model_version, "source": version.source}


def version_from_fields(fields: object) -> RegisteredVersion | None:
    """The version that `fields_of_version` turned into `fields`; None if `fields` is not a version."""
    if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
        return None
    try:
        return RegisteredVersion(**fields)
    except (TypeError, ValueError):
        return None

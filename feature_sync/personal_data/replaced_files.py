"""Replaces files of a folder together with the JSON file that lists their checksums, so that a kill leaves no damage.

    the new files beside the old ones -> the new list -> the new files in place of the old ones

The list decides: a kill before it leaves the old folder and remains, which `settle` removes; a kill after it leaves new
files that have to be moved, which `settle` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tandem.contract.checksums import file_sha256
from tandem.ops.file_replacement import put_in_place

_STAGED: Final = ".erased"


def staged_path(path: Path) -> Path:
    """Where the new content of a file waits."""
    return path.with_name(f".{path.name}{_STAGED}")


def settle(directory: Path, checksums: Mapping[str, str]) -> None:
    """Ends what a killed process began, given the checksums of the folder's list. Raises OSError."""
    for staged in directory.glob(f".*{_STAGED}"):
        name = staged.name[1 : -len(_STAGED)]
        if checksums.get(name) == file_sha256(staged):
            put_in_place(staged, directory / name)
        else:
            staged.unlink()


def replace_list(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces the JSON file that lists the checksums, which keeps its time of change: of several folders of prepared
    data the newest is used. Raises OSError."""
    before, staged = path.stat(), path.with_name(f".{path.name}.new")
    with staged.open("w") as sink:
        sink.write(json.dumps(content, indent=2, ensure_ascii=False))
        sink.flush()
        os.fsync(sink.fileno())
    os.utime(staged, ns=(before.st_atime_ns, before.st_mtime_ns))
    put_in_place(staged, path)

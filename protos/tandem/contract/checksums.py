"""SHA-256 of files, and the comparison of a folder with the checksums that were recorded when it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


class DamagedFile(Exception):
    """A file is missing or is not what its checksum says. The message is one line and names the file."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hex. Raises OSError."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def check_files(directory: Path, checksums: Mapping[str, str]) -> None:
    """Raises DamagedFile unless the folder has these files, file name -> SHA-256. Reads every byte."""
    for name, expected in checksums.items():
        path = directory / name
        try:
            actual = file_sha256(path)
        except OSError as error:
            raise DamagedFile(f"{path}: {error.strerror or error}") from error
        if actual != expected:
            raise DamagedFile(f"{path}: is damaged: it has SHA-256 {actual}, {expected} was written")

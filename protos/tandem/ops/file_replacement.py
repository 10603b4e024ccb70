"""A new file in the place of another: in one rename, readable by whoever could read the old one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def put_in_place(staged: Path, path: Path) -> None:
    """Renames `staged` to `path`; the file that was there hands down its mode and its owner. Raises OSError."""
    if path.exists():
        shutil.copymode(path, staged)
        take_owner(staged, path)
    staged.replace(path)


def flush_to_disk(path: Path) -> None:
    """Returns once the content of a file, or the entries of a folder, are on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def take_owner(path: Path, like: Path) -> None:
    """Gives a file the owner of `like`, where this process may do that: a command that root runs must not lock out the
    programs that share the folder. Raises OSError."""
    if os.geteuid() == 0:
        owner = like.stat()
        os.chown(path, owner.st_uid, owner.st_gid)

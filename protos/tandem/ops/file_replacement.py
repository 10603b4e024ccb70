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


def take_owner(path: Path, like: Path) -> None:
    """Gives a file the owner of `like`, where this process may do that: a command that root runs must not lock out the
    programs that share the folder. Raises OSError."""
    if os.geteuid() == 0:
        owner = like.stat()
        os.chown(path, owner.st_uid, owner.st_gid)

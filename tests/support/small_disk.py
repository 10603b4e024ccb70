"""A disk that is small enough to be filled, for tests of what a program does when it is full or read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, *, kibibytes: int = 2048) -> Iterator[Path]:
    """Mounts a disk of this size at a new folder. Skips the test where that is not allowed."""
    folder.mkdir()
    may_mount = os.geteuid() == 0 and shutil.which("mount") is not None
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    if not may_mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this test mounts a small disk: it needs root, and the right to mount")
    try:
        yield folder
    finally:
        # Lazily: a bundle that was opened from the disk may still be mapped.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Changes a mounted disk: "ro", "rw", "size=4096k"."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

"""Small files that a person names: read whole, and only if reading them ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 64 << 20


def read_whole(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Raises OSError, whose `strerror` says why, also for what is no file: a pipe may never have a writer, and a device
    such as /dev/zero has no end.
    """
    # Without this flag, opening a pipe that has no writer would wait for one.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        if status.st_size > max_bytes:
            raise OSError(errno.EINVAL, f"Larger than {max_bytes >> 20} MiB", str(path))
        return file.read()

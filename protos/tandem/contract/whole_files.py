"""Small files that a person names: read whole, and only if reading them ends; written whole, or not at all."""

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


def write_whole(path: Path, text: str) -> None:
    """Writes a file with all of the text, or leaves it as it was; makes its folder.

    A pipe, a device, and a file in a folder that takes no new one are written in place. Raises OSError, which names the
    file.
    """
    target = Path(os.path.realpath(path))
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not (target.is_file() and os.access(target.parent, os.W_OK)):
            target.write_text(text, encoding="utf-8")
            return
        try:
            staging.write_text(text, encoding="utf-8")
            staging.replace(target)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error

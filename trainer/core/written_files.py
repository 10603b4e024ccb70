"""Files that libraries write: what they raise on a full disk becomes an OSError, as Python's own files raise it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_file(path: Path, *raised: type[Exception]) -> Iterator[None]:
    """Turns exceptions of the types `raised`, which a library raises when it cannot write `path`, into OSError."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:  # pyarrow names no file
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    except raised as error:
        full = _is_full(path)
        code = errno.ENOSPC if full else errno.EIO
        reason = os.strerror(code) if full else " ".join(str(error).split())
        raise OSError(code, reason, str(path)) from error


def _is_full(path: Path) -> bool:
    """Whether a byte can be written beside the file no more."""
    probe = path.with_name(f".{path.name}.probe")
    try:
        with probe.open("wb") as sink:
            sink.write(bytes(65_536))
    except OSError:
        return True
    finally:
        probe.unlink(missing_ok=True)
    return False

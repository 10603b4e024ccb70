"""What the operating system says about a disk, as one line for the person who chose the data folder."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def storage_error_line(error: OSError, data_dir: Path | None = None) -> str:
    """One line that names the file, if it is known, the reason and, where it may be the cause, TANDEM_DATA_DIR.

    `data_dir` is None where the program has none, or has not read it yet.
    """
    # Of a copy, the second file is the one that is written.
    path = error.filename2 or error.filename
    reason = error.strerror or str(error) or type(error).__name__
    is_named = isinstance(path, str | Path)
    line = f"{path}: {reason}" if is_named else " ".join(reason.split())
    if data_dir is not None and (not is_named or Path(path).is_relative_to(data_dir)):
        line += f" (TANDEM_DATA_DIR is {data_dir})"
    if error.errno in _DISK_FULL:
        line += "; free some space, or set TANDEM_DATA_DIR or TMPDIR to a folder on a larger disk"
    return line

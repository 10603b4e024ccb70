"""What every program does before anything else."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Final

from tandem.ops.secrets import guard_messages

_OWNER_ONLY: Final = 0o077


def start_process() -> None:
    """Keeps secrets out of messages, opens standard streams that are closed, and makes every new file and folder its
    owner's alone.

    Users' ids and histories are in most files of the data folder: the store's, the archive, prepared data, bundles, the
    registry, logs. Programs that share a data folder run as one user, which `control.sock` requires too.
    """
    guard_messages()
    _open_standard_streams()
    os.umask(os.umask(_OWNER_ONLY) | _OWNER_ONLY)


def _open_standard_streams() -> None:
    """Opens /dev/null for streams that are closed: the next file would get the stream's number, and what libraries
    print would be written into it. Makes standard output write what its encoding lacks as \\x.. and \\u...., instead of
    failing: ids and names of files are of any characters."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, so this one
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # open until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

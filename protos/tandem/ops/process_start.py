"""What every program does before anything else."""

from __future__ import annotations

import os
from typing import Final

from tandem.ops.secrets import guard_messages

_OWNER_ONLY: Final = 0o077


def start_process() -> None:
    """Keeps secrets out of messages, and makes every new file and folder its owner's alone.

    Users' ids and histories are in most files of the data folder: the store's, the archive, prepared data, bundles, the
    registry, logs. Programs that share a data folder run as one user, which `control.sock` requires too.
    """
    guard_messages()
    os.umask(os.umask(_OWNER_ONLY) | _OWNER_ONLY)

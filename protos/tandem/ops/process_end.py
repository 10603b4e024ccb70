"""What a service does last."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import NoReturn


def end_process(status: int) -> NoReturn:
    """Ends the process at once, after the functions registered with `atexit`.

    The interpreter would first collect garbage, several times. With MLflow imported that takes a second of processor
    time, and threads that wait for a network that does not answer could take longer.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(status)

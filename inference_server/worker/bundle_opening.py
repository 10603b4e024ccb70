"""Opens a bundle beside the one that answers, so that requests notice as little as can be.

The work is done in a thread of its own: its priority is lowered, and that cannot be undone for a thread of a pool. The
interpreter hands its lock over more often meanwhile: by default a request would wait up to 5 ms for every piece of
Python in the opening. And the garbage collector is kept from walking a whole catalogue in the middle of a request: what
is long-lived is frozen, out of its sight, before and after.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import sys
import threading
from pathlib import Path
from typing import Final

from inference_server.model.serving_model import ServingModel, open_model

_NICENESS: Final = 10
_SWITCH_SECONDS: Final = 0.0005
"""How long a thread may keep the interpreter while another one waits for it, during an opening."""


async def open_beside(directory: Path, *, variant: str, registry_version: str) -> ServingModel:
    """Opens and warms a folder that the supervisor had checked. Raises BundleError. One at a time."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[ServingModel] = loop.create_future()

    def settle(model: ServingModel | None, error: BaseException | None) -> None:
        if opened.done():
            return
        if model is None:
            opened.set_exception(error or RuntimeError("nothing was opened"))
        else:
            opened.set_result(model)

    def run() -> None:
        with contextlib.suppress(OSError):  # a sandbox may forbid it; then it goes on as it is
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        model, failure = None, None
        try:
            model = open_model(directory, variant=variant, registry_version=registry_version, verify_checksums=False)
        except BaseException as error:  # handed to the awaiting task, which raises it
            failure = error
        _return_unused_memory()
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, model, failure)

    usual_switch_seconds = sys.getswitchinterval()
    gc.freeze()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        threading.Thread(target=run, name="opening", daemon=True).start()
        return await opened
    finally:
        sys.setswitchinterval(usual_switch_seconds)
        gc.freeze()


def _return_unused_memory() -> None:
    """Gives what the opening needed for a moment back to the system; the C library would keep it for this process."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own; others give it back by themselves
    if trim is not None:
        trim(0)

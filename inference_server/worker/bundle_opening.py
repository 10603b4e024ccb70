"""Opens a bundle while another one answers, with as little effect on requests as possible.

The work is done in a new thread with a lower priority; for a thread of a pool that could not be undone. Meanwhile the
interpreter's lock is handed over more often: by default a request would wait up to 5 ms for every stretch of Python in
the opening. And long-lived objects are frozen before and after the opening, so that the garbage collector does not walk
a whole catalogue during a request.
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
"""How long a thread may keep the interpreter during an opening while another thread waits for it."""


async def open_beside(directory: Path, *, registry_version: str) -> ServingModel:
    """Opens and warms a folder that the supervisor has had checked. Raises BundleError. Not for concurrent calls."""
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
        with contextlib.suppress(OSError):  # a sandbox may forbid it; then the priority stays as it is
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        model, failure = None, None
        try:
            model = open_model(directory, registry_version=registry_version, verify_checksums=False)
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
    """Returns the opening's temporary memory to the system; the C library would keep it for this process."""
    trim = getattr(
        ctypes.CDLL(None), "malloc_trim", None
    )  # a function of glibc; other C libraries return memory by themselves
    if trim is not None:
        trim(0)

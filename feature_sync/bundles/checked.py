"""Opens bundles that somebody else made: a child process checks each one before this process opens it.

The child opens the files and runs the towers under limits of memory and time, so that a bundle which unpacks without
end, hangs an engine or crashes it costs this program no more than that bundle.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from feature_sync.core.errors import RegistryError
from feature_sync.core.progress import report_progress
from feature_sync.core.settings import Settings
from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.errors import BundleCorrupt, BundleIncompatible
from tandem.ops.child_process import ChildFailed, ask_child

REASON: Final = "reason"
INCOMPATIBLE: Final = "incompatible"
"""Fields of the child's result: why the bundle is refused, and whether it is intact."""

_LOOK_SECONDS: Final = 0.2

_T = TypeVar("_T")


def open_checked(directory: Path, settings: Settings, *, stop: threading.Event | None = None) -> Bundle:
    """The bundle in a folder, after its check in a child process. Raises BundleError; RegistryError when `stop` is set
    meanwhile."""
    work = ask_child("feature_sync", ("check-bundle", str(directory)), seconds=settings.bundle_timeout_seconds)
    try:
        result = run_until_stopped(work, stop)
    except ChildFailed as error:
        raise BundleCorrupt(f"the check failed: {error}") from error
    if REASON in result:
        raise (BundleIncompatible if result[INCOMPATIBLE] else BundleCorrupt)(result[REASON])
    return read_bundle(directory, verify_checksums=False)


def run_until_stopped(work: Coroutine[Any, Any, _T], stop: threading.Event | None) -> _T:
    """Runs a coroutine in this thread. Cancels it and raises RegistryError once `stop` is set."""

    async def watched() -> _T:
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                if stop is not None and stop.is_set():
                    raise RegistryError("the program stops before the bundle is open")
                report_progress()  # the work has a time limit of its own
                await asyncio.wait({task}, timeout=_LOOK_SECONDS)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return asyncio.run(watched())

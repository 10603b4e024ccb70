"""Where calls into the engines run: on the event loop while they are short, in a thread when they have become long.

A thread costs more than it looks: its call comes back only when the interpreter's lock is handed over, which on one
core takes milliseconds under load. A long call on the event loop would keep everyone waiting, so what it takes is
measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, ParamSpec, TypeVar

LONG_SECONDS: Final = 0.02
"""A call that is expected to take longer than this leaves the event loop to others."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


async def call_engine(
    threads: Executor, expected_seconds: float, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
) -> tuple[_R, float]:
    """Makes a call that releases the interpreter's lock, here or in one of the threads.

    Returns its result and the processor time that it took, in seconds: what it waited for in a thread would make it
    look long for ever.
    """

    def timed() -> tuple[_R, float]:
        started = time.thread_time()
        result = call(*args, **kwargs)
        return result, time.thread_time() - started

    if expected_seconds <= LONG_SECONDS:
        return timed()
    return await asyncio.get_running_loop().run_in_executor(threads, timed)

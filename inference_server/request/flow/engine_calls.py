"""Where calls into the engines run: on the event loop while they are short, in a thread when they have become long.

A call in a thread returns only when the interpreter's lock is handed over, which takes milliseconds on one core under
load. A long call on the event loop would keep every other request waiting. So the duration of calls is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, ParamSpec, TypeVar

from inference_server.request.flow.ladder import Ladder

LONG_SECONDS: Final = 0.02
"""A call that is expected to take longer than this runs in a thread."""
_UNKNOWN_SECONDS: Final = 2 * LONG_SECONDS
_FADING: Final = 0.9
"""Factor on the longest call with each call after it: after seven short calls in threads, a stage is taken to be
short."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class EngineCalls:
    """Makes the calls of one worker, and knows from its ladder how long each stage's call takes."""

    def __init__(self, threads: Executor, ladder: Ladder) -> None:
        """`threads` run the calls that are too long for the event loop."""
        self._threads = threads
        self.ladder = ladder

    def _is_short(self, stage: str) -> bool:
        return self.ladder.seconds[stage] <= LONG_SECONDS

    async def call(self, stage: str, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> tuple[_R, float]:
        """Makes a stage's call, which releases the interpreter's lock, here or in one of the threads.

        Returns its result and its processor time in seconds: with the time that a call waits for its thread, a call in
        a thread would look long for ever.
        """

        def timed() -> tuple[_R, float]:
            started = time.thread_time()
            result = call(*args, **kwargs)
            return result, time.thread_time() - started

        if self._is_short(stage):
            return timed()
        return await asyncio.get_running_loop().run_in_executor(self._threads, timed)


class CarefulEngineCalls(EngineCalls):
    """The calls of a model beside the server's own, whose requests must not wait for them.

    A stage's calls run on the event loop only once they have been short several times running. The mean that decides
    for the server's own model begins low, and fades while a stage is skipped: a slow call would follow on the loop.
    """

    def __init__(self, threads: Executor, ladder: Ladder) -> None:
        super().__init__(threads, ladder)
        self._longest_seconds: dict[str, float] = {}

    async def call(self, stage: str, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> tuple[_R, float]:
        """See `EngineCalls.call`."""
        result, seconds = await super().call(stage, call, *args, **kwargs)
        longest_seconds = self._longest_seconds.get(stage, _UNKNOWN_SECONDS)
        self._longest_seconds[stage] = max(seconds, _FADING * longest_seconds)
        return result, seconds

    def _is_short(self, stage: str) -> bool:
        return self._longest_seconds.get(stage, _UNKNOWN_SECONDS) <= LONG_SECONDS


class ThreadedEngineCalls(EngineCalls):
    """The calls of requests that nobody waits for: all of them in a thread, so that callers wait for none."""

    def _is_short(self, stage: str) -> bool:  # noqa: ARG002 - however short
        return False

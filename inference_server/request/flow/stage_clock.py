"""Timing of stages, kept out of the pipeline: `@stage` on a stage function measures its calls.

A batch runs in a task of its own, and its clock is a context variable of that task. So a stage needs no argument to
find the clock, and a call without a clock, as in a test, is not timed.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from inference_server.request.flow.ladder import Ladder
from inference_server.request.flow.types import Lap
from inference_server.telemetry.statistics import Statistics

_F = TypeVar("_F", bound=Callable[..., Any])


class StageClock:
    """Records the durations of the stages of one batch, for each of its requests."""

    __slots__ = ("_ladder", "_num_requests", "_statistics", "_traced")

    def __init__(
        self, statistics: Statistics, ladder: Ladder, num_requests: int, traced: Sequence[list[Lap]] = ()
    ) -> None:
        """`traced` holds the lap lists of the traced requests: each stage is appended to all of them."""
        self._statistics = statistics
        self._ladder = ladder
        self._num_requests = num_requests
        self._traced = traced

    def start(self) -> None:
        """Makes this the clock of the running task."""
        _current.set(self)

    def observe(self, name: str, started_at: float, *, cost_seconds: float | None = None) -> None:
        """Ends a stage that began at `started_at`, in seconds of time.perf_counter.

        `cost_seconds` is the cost that goes to the ladder; None: nothing does.
        """
        seconds = time.perf_counter() - started_at
        self._statistics.stage_seconds[name].observe(seconds, self._num_requests)
        if cost_seconds is not None:
            self._ladder.observe(name, cost_seconds)
        if self._traced:
            ended_at_ns = time.time_ns()
            lap = (name, ended_at_ns - int(seconds * 1e9), ended_at_ns)
            for laps in self._traced:
                laps.append(lap)


_current: ContextVar[StageClock | None] = ContextVar("stage_clock", default=None)


def stage(name: str, *, budgeted: Callable[..., bool] | None = None) -> Callable[[_F], _F]:
    """Measures each call of a stage function under this name of `tandem_stage_seconds`.

    The function may be plain, a coroutine function or an asynchronous generator. Of a generator, the time between two
    results is measured; the time that its consumer takes is not.

    `budgeted` is asked with the arguments of a call whether the ladder takes in its processor time. A call that skips
    the work of its stage must not be taken in: it would make the stage look cheap. None: no call is taken in, because
    the stage mostly waits; the ladder then takes in what its calls into the engines cost.
    """

    def decorate(function: _F) -> _F:
        if inspect.isasyncgenfunction(function):
            return cast(_F, _timed_generator(name, function))
        if inspect.iscoroutinefunction(function):
            return cast(_F, _timed_coroutine(name, function))
        return cast(_F, _timed(name, function, budgeted))

    return decorate


def _timed(name: str, function: Callable[..., Any], budgeted: Callable[..., bool] | None) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        clock = _current.get()
        if clock is None:
            return function(*args, **kwargs)
        started_at, cpu_started_at = time.perf_counter(), time.thread_time()
        result = function(*args, **kwargs)
        cost_seconds = None
        if budgeted is not None and budgeted(*args):
            # Processor time: a stage that another process has interrupted is not expensive.
            cost_seconds = time.thread_time() - cpu_started_at
        clock.observe(name, started_at, cost_seconds=cost_seconds)
        return result

    return timed


def _timed_coroutine(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def timed(*args: Any, **kwargs: Any) -> Any:
        started_at = time.perf_counter()
        result = await function(*args, **kwargs)
        _observe(name, started_at)
        return result

    return timed


def _timed_generator(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def timed(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        started_at = time.perf_counter()
        async for result in function(*args, **kwargs):
            _observe(name, started_at)
            yield result
            started_at = time.perf_counter()

    return timed


def _observe(name: str, started_at: float) -> None:
    clock = _current.get()
    if clock is not None:
        clock.observe(name, started_at)

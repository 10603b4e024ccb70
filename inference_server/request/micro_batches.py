"""Micro-batches: requests that arrive together travel through the stages together.

A request costs this process mostly Python and calls into libraries, not arithmetic. The requests of a batch share that
cost: one MGET, one run of the user tower, one search and one ranking serve all of them. While requests are rare, a
batch starts at once, so that no request waits for company.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.types import Admitted
from inference_server.telemetry.statistics import Statistics

_log = structlog.get_logger()

MAX_BATCH: Final = 64
"""Maximum number of requests in a batch: in a larger batch, every request would wait for a longer read."""
MAX_IN_FLIGHT: Final = 2
"""Maximum number of batches in progress: one waits for the store while the other is computed."""
PACE_SECONDS: Final = 0.002
"""Least time from the end of one batch to the start of the next: gRPC's threads need it to read and hand over the
requests that arrived meanwhile. Without it most batches had one or two requests
(docs/decisions/0007-store-batches-are-paced.md)."""
_STEP_SECONDS: Final = 0.001
"""How long a growing batch waits for more requests before it is looked at again."""
_MIN_GROWTH: Final = 2
"""A batch that grew by at least this many requests in the last step waits for another step: the server is busy, and the
more requests share the fixed cost of a batch, the sooner all are answered."""
_FULL_ENOUGH: Final = 32
"""A batch of this many requests starts at once."""
_MAX_WAIT_SECONDS: Final = 0.008
"""So does a batch whose oldest request has waited this long."""


class Pace:
    """When the event loop was last busy with a batch, of whatever model."""

    __slots__ = ("busy_at",)

    def __init__(self) -> None:
        self.busy_at = 0.0
        """time.monotonic seconds."""


class MicroBatches:
    """Collects admitted requests into batches of one model each, and has each batch answered."""

    def __init__(
        self, answer: Callable[[list[Admitted]], Awaitable[None]], statistics: Statistics, pace: Pace | None = None
    ) -> None:
        """`answer` answers a batch: it delivers to every caller that is not gone. `pace` is shared by those who collect
        for one event loop."""
        self._answer = answer
        self._pace = pace or Pace()
        self._statistics = statistics
        self._waiting: deque[Admitted] = deque()
        self._bulk: deque[Admitted] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Handle | None = None
        self._last_num_waiting = 0

    def join(self, admitted: Admitted) -> None:
        """Puts a request into the next batch. The queue is bounded by the permits of admission."""
        self._waiting.append(admitted)
        self._start_soon()

    def join_bulk(self, admitted: Admitted) -> None:
        """Puts a request into a batch that starts when no other request waits."""
        self._bulk.append(admitted)
        self._start_soon()

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting) + len(self._bulk)

    async def close(self) -> None:
        """Cancels the batches in progress."""
        tasks = list(self._in_flight)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_soon(self) -> None:
        if self._starting is not None or len(self._in_flight) >= MAX_IN_FLIGHT:
            return
        loop = asyncio.get_running_loop()
        self._last_num_waiting = 0
        too_early_seconds = self._pace.busy_at + PACE_SECONDS - time.monotonic()
        if too_early_seconds > 0.0:
            self._starting = loop.call_later(too_early_seconds, self._start_or_wait)
        else:
            self._starting = loop.call_soon(self._start_or_wait)

    def _start_or_wait(self) -> None:
        """Starts a batch, or waits for another step while many requests arrive."""
        num_waiting = len(self._waiting)
        grew = num_waiting - self._last_num_waiting >= _MIN_GROWTH
        if grew and num_waiting < _FULL_ENOUGH and time.monotonic() - self._waiting[0].admitted_at < _MAX_WAIT_SECONDS:
            self._last_num_waiting = num_waiting
            self._starting = asyncio.get_running_loop().call_later(_STEP_SECONDS, self._start_or_wait)
        else:
            self._start()

    def _start(self) -> None:
        self._starting = None
        self._pace.busy_at = now = time.monotonic()
        batch = self._take(self._waiting) or self._take(self._bulk)
        if not batch:
            return
        statistics = self._statistics
        statistics.batch_requests.observe(len(batch))
        for admitted in batch:
            statistics.queue_seconds.observe(now - admitted.admitted_at)
        task = asyncio.create_task(self._run(batch), name="micro-batch")
        self._in_flight.add(task)
        task.add_done_callback(self._ended)
        if self.num_waiting:
            self._start_soon()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._pace.busy_at = time.monotonic()
        if self.num_waiting:
            self._start_soon()

    def _take(self, queue: deque[Admitted]) -> list[Admitted]:
        """The requests that have waited longest, all of one model. Drops requests whose callers are gone."""
        batch: list[Admitted] = []
        model: ServingModel | None = None
        while queue and len(batch) < MAX_BATCH:
            if queue[0].caller.gone:
                queue.popleft()
                self._statistics.dropped_requests += 1
                continue
            if model is not None and queue[0].model is not model:
                break
            model = queue[0].model
            batch.append(queue.popleft())
        return batch

    async def _run(self, batch: list[Admitted]) -> None:
        try:
            await self._answer(batch)
        except Exception as error:  # a bug: only the requests that meet it may fail
            if len(batch) == 1:
                batch[0].caller.fail(error)
                return
            _log.warning("batch_failed", requests=len(batch), reason=repr(error))
            for admitted in batch:
                if not admitted.caller.gone:
                    await self._run([admitted])

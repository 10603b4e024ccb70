"""Micro-batches: requests that arrive together travel through the stages together.

A request costs this process mostly Python and calls into libraries, not arithmetic. The requests of a batch share that
cost: one MGET, one run of the user tower, one search and one ranking serve all of them. While requests are rare, a
batch starts at once, so that no request waits for company.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from operator import attrgetter
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
MAX_BESIDE: Final = 8
"""Maximum number of queries of RecommendMany calls in a batch while single requests arrive: a single request waits for
the batch in progress, and shares the next one with at most this many queries."""
_ALONE_SECONDS: Final = 0.25
"""Such queries fill whole batches once no single request has arrived for this long."""
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
        self._many: deque[Admitted] = deque()
        self._single_at = 0.0
        self._bulk: deque[Admitted] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Handle | None = None
        self._last_num_waiting = 0

    def join(self, admitted: Admitted) -> None:
        """Puts a request into the next batch. The queue is bounded by the permits of admission."""
        self._waiting.append(admitted)
        self._single_at = admitted.admitted_at
        self._start_soon()

    def join_many(self, queries: Iterable[Admitted]) -> None:
        """Puts queries of a RecommendMany call into the next batches: some beside the single requests, or whole
        batches where there are none. The call that has the least time left goes first: a few shelves would otherwise
        wait for all of a large call."""
        self._many.extend(queries)
        self._many = deque(sorted(self._many, key=attrgetter("deadline")))
        self._start_soon()

    def join_bulk(self, *requests: Admitted) -> None:
        """Puts requests into batches that start when no other request waits."""
        self._bulk.extend(requests)
        self._start_soon()

    @property
    def is_idle(self) -> bool:
        """Whether no request waits and no batch is in progress."""
        return not self._in_flight and not self.num_waiting

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting) + len(self._many) + len(self._bulk)

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
        now = time.monotonic()
        too_early_seconds = self._pace.busy_at + PACE_SECONDS - now
        # No request that has yet to be read could make a full batch fuller.
        is_full = len(self._many) >= MAX_BATCH and self._has_no_singles(now)
        if too_early_seconds > 0.0 and not is_full:
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
        batch = self._next_batch(now)
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

    def _has_no_singles(self, now: float) -> bool:
        return not self._waiting and now - self._single_at > _ALONE_SECONDS

    def _next_batch(self, now: float) -> list[Admitted]:
        """Single requests, with a few queries of RecommendMany calls beside them; or such queries alone; or bulk."""
        batch: list[Admitted] = []
        if self._many:
            has_no_singles = self._has_no_singles(now)
            self._take(self._waiting, batch, MAX_BATCH - MAX_BESIDE)
            self._take(self._many, batch, MAX_BATCH if has_no_singles else len(batch) + MAX_BESIDE)
        else:
            self._take(self._waiting, batch, MAX_BATCH)
        if not batch:
            self._take(self._bulk, batch, MAX_BATCH)
        return batch

    def _take(self, queue: deque[Admitted], batch: list[Admitted], size: int) -> None:
        """Adds the requests that have waited longest to a batch of at most `size`, all of one model. Drops requests
        whose callers are gone."""
        model: ServingModel | None = batch[0].model if batch else None
        while queue and len(batch) < size:
            if queue[0].caller.gone:
                queue.popleft()
                self._statistics.dropped_requests += 1
                continue
            if model is not None and queue[0].model is not model:
                break
            model = queue[0].model
            batch.append(queue.popleft())

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

"""One shadow model: a queue of requests that were answered, and the task that has them answered once more.

The queue is short and nothing waits for it. A request that finds no room, or for which no quiet moment comes, is
dropped and counted: a shadow needs a sample, not all of the traffic.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from inference_server.core.daemon_thread import DaemonExecutor
from inference_server.core.shadow_outcome import ShadowOutcome
from inference_server.model.serving_model import ModelSlot
from inference_server.request.shadow.comparison import OwnAnswer, judge
from inference_server.request.shadow.lane import Lane, MakePipeline
from inference_server.telemetry.shadow_counts import ShadowCounts, Side, forget_shadow
from inference_server.telemetry.shadow_summary import shadow_summaries
from inference_server.telemetry.statistics import Statistics

_log = structlog.get_logger()

MAX_WAITING: Final = 64
"""Requests in the queue."""
_MAX_BATCH: Final = 8
"""Requests that are answered together: fewer than in the callers' batches, because these wait meanwhile."""
_MAX_WAIT_SECONDS: Final = 5.0
"""Longest wait for a quiet moment. The user's state changes meanwhile."""
_BEFORE_SECONDS: Final = 0.002
"""Pause before a batch, in which the reply is sent."""
_PAUSE_FACTOR: Final = 3.0
"""Pause after a batch, as a multiple of its duration: a shadow has a quarter of the event loop at most."""
_TIMED_EVERY: Final = 8
"""Of so many batches one is answered by the own model once more, to compare the time."""
_PATIENCE_FACTOR: Final = 20.0
_MIN_PATIENCE_SECONDS: Final = 1.0
"""A batch may take this multiple of a request's time, and at least so long."""
_LOG_SECONDS: Final = 600.0
"""Pause between two lines of the log about a shadow."""


class ShadowModel:
    """A model that answers after the server's own."""

    def __init__(
        self,
        name: str,
        *,
        models: ModelSlot,
        make_pipeline: MakePipeline,
        statistics: Statistics,
        is_quiet: Callable[[], bool],
        max_seconds: float,
    ) -> None:
        """`name` is its alias or version number; `is_quiet` says whether no caller's batch waits or is in progress;
        `max_seconds` is the time that a request may take."""
        self.name: Final = name
        self._models = models
        self._statistics = statistics
        self._is_quiet = is_quiet
        self._patience_seconds = max(_PATIENCE_FACTOR * max_seconds, _MIN_PATIENCE_SECONDS)
        self._threads = DaemonExecutor(f"shadow-{name}")

        def lane(of: str) -> Lane:
            return Lane(of, make_pipeline=make_pipeline, threads=self._threads, max_seconds=max_seconds)

        self._lane, self._own_lane = lane(name), lane(f"{name}:own")
        self._queue: deque[OwnAnswer] = deque()
        self._arrived = asyncio.Event()
        self._counts: ShadowCounts | None = None
        self._num_batches = 0
        self._logged_at = time.monotonic()
        self._failure_logged_at = -_LOG_SECONDS

    def offer(self, own: OwnAnswer) -> None:
        """Puts an answered request into the queue, if there is room."""
        if len(self._queue) >= MAX_WAITING:
            self.pass_over(ShadowOutcome.QUEUE_FULL)
        else:
            self._queue.append(own)
            self._arrived.set()

    def pass_over(self, outcome: ShadowOutcome) -> None:
        """Counts a request that the shadow does not answer."""
        self._counts_now().count(outcome)

    async def run(self) -> None:
        """Answers what is in the queue until it is cancelled."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(_BEFORE_SECONDS)
            if not self._is_quiet() and not self._oldest_expired():
                continue
            batch = self._take()
            if not self._queue:
                self._arrived.clear()
            if batch:
                started_at = time.monotonic()
                try:
                    await self._answer(batch)
                except Exception as error:  # a defect of ours, or the own model's: the shadow goes on
                    self._log_failure(error)
                self._log_sometimes()
                await asyncio.sleep(_PAUSE_FACTOR * (time.monotonic() - started_at))

    def forget(self) -> None:
        """Lets go of what was counted, because the model is no longer in force."""
        self._counts = None
        forget_shadow(self._statistics, self.name)

    def close(self) -> None:
        """Drops the queue. A call into an engine ends by itself, in a thread that no shutdown waits for."""
        self._queue.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _oldest_expired(self) -> bool:
        return bool(self._queue) and time.monotonic() - self._queue[0].answered_at > _MAX_WAIT_SECONDS

    def _take(self) -> list[OwnAnswer]:
        """The requests that have waited longest and may still be compared."""
        batch: list[OwnAnswer] = []
        current = self._models.current
        while self._queue and len(batch) < _MAX_BATCH:
            if self._oldest_expired():
                self._queue.popleft()
                self.pass_over(ShadowOutcome.EXPIRED)
            elif current is None or self._queue[0].admitted.model.version != current.version:
                self._queue.popleft()
                self.pass_over(ShadowOutcome.OTHER_MODEL)
            elif self._is_quiet():
                batch.append(self._queue.popleft())
            else:
                break
        return batch

    async def _answer(self, batch: Sequence[OwnAnswer]) -> None:
        model = self._models.further.get(self.name)
        counts = self._counts_now()
        if model is None:
            for _ in batch:
                counts.count(ShadowOutcome.NOT_IN_FORCE)
            return
        requests = [own.admitted for own in batch]
        self._num_batches += 1
        is_timed = self._num_batches % _TIMED_EVERY == 1
        # In turns: the second of the two finds the caches filled.
        own_first = is_timed and self._num_batches % (2 * _TIMED_EVERY) != 1
        own_seconds = await self._own_seconds(batch) if own_first else None
        try:
            async with asyncio.timeout(self._patience_seconds):
                shadow = await self._lane.answers(model, requests)
        except TimeoutError:
            for _ in batch:
                counts.count(ShadowOutcome.TIMED_OUT)
            # The call goes on in its thread; no other one queues up behind it.
            await asyncio.get_running_loop().run_in_executor(self._threads, lambda: None)
            return
        except Exception as error:  # whatever the model raises, callers have their answers
            if len(batch) > 1:
                for own in batch:  # only the requests that meet it count as failed
                    await self._answer([own])
                return
            counts.count(ShadowOutcome.FAILED)
            self._log_failure(error)
            return
        for own in batch:
            judge(own, shadow.by_request[own.admitted.request_id], counts)
        if is_timed and shadow.complete:
            own_seconds = own_seconds if own_first else await self._own_seconds(batch)
            if own_seconds is not None:
                counts.seconds[Side.SHADOW].observe(shadow.seconds)
                counts.seconds[Side.OWN].observe(own_seconds)
                counts.slowdown.observe(shadow.seconds / own_seconds)

    async def _own_seconds(self, batch: Sequence[OwnAnswer]) -> float | None:
        """Time in which the own model answers the same requests in the same thread, so that the models alone make the
        difference; None where an answer is degraded, or there is none."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                again = await self._own_lane.answers(batch[0].admitted.model, [own.admitted for own in batch])
        except Exception as error:  # no fault of the shadow's
            self._log_failure(error)
            return None
        return again.seconds if again.complete else None

    def _counts_now(self) -> ShadowCounts:
        """The counts of the versions now in force."""
        shadow, own = self._models.further.get(self.name), self._models.current
        versions = ("" if shadow is None else shadow.version, "" if own is None else own.version)
        if self._counts is None or self._counts.versions != versions:
            self._counts = ShadowCounts(
                self._statistics, model=self.name, model_version=versions[0], own_version=versions[1]
            )
        return self._counts

    def _log_failure(self, error: Exception) -> None:
        if time.monotonic() - self._failure_logged_at > _LOG_SECONDS:
            self._failure_logged_at = time.monotonic()
            _log.warning("shadow_failed", alias=self.name, reason=repr(error))

    def _log_sometimes(self) -> None:
        if time.monotonic() - self._logged_at < _LOG_SECONDS:
            return
        self._logged_at = time.monotonic()
        for summary in shadow_summaries(self._statistics):
            if summary.model == self.name:
                _log.info(
                    "shadow_compared",
                    alias=self.name,
                    model_version=summary.model_version,
                    own_version=summary.own_version,
                    mean_overlap=round(summary.overlap.mean, 4),
                    mean_rank_biased_overlap=round(summary.rank_biased_overlap.mean, 4),
                    **summary.outcomes,
                )

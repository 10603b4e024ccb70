"""A request from admission to answer, for every protocol.

A request is admitted alone and shares a micro-batch with those that arrive with it; `pipeline.py` answers the batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Final

import structlog

from inference_server.canary.counts import CanaryCounts
from inference_server.core.answers import Answer
from inference_server.core.breaker import Breaker
from inference_server.core.errors import DeadlineTooShort
from inference_server.core.query import Query, SimilarQuery
from inference_server.request.admission import Admission, permits_of
from inference_server.request.arms import Arm, Arms
from inference_server.request.around_batch import AroundBatch
from inference_server.request.flow.engine_calls import EngineCalls
from inference_server.request.flow.ladder import SECONDS_TO_ANSWER, Ladder
from inference_server.request.flow.recent_lists import RecentLists
from inference_server.request.flow.types import Admitted, Caller
from inference_server.request.journal import Journal
from inference_server.request.many import Many
from inference_server.request.pipeline import Pipeline
from inference_server.request.shadow.shadows import ShadowPlan, Shadows
from inference_server.request.similar_items import similar_items
from inference_server.request.sources.registry import SOURCES
from inference_server.request.sources.source import Source
from inference_server.security.callers import require_user, take_turn_in_bulk, taking_turn
from inference_server.store.user_store import ReadsStore
from inference_server.telemetry.statistics import Statistics
from inference_server.telemetry.tracing import Tracing

_log = structlog.get_logger()


class Recommender:
    """Answers the queries of every protocol."""

    def __init__(
        self,
        *,
        admission: Admission,
        store: ReadsStore,
        threads: Executor,
        statistics: Statistics,
        journal: Journal | None = None,
        ladder: Ladder | None = None,
        shadow: ShadowPlan | None = None,
        canary: CanaryCounts | None = None,
    ) -> None:
        """`threads` run the calls that are too long for the event loop. `journal` None: answers are not recorded;
        `ladder` None: a new ladder; `shadow` None: no model answers beside the callers; `canary` None: there is never
        one."""
        self._admission = admission
        self._threads = threads
        self._statistics = statistics
        self._journal = journal or Journal(Tracing("", sample_ratio=0.0))
        self._canary = canary or CanaryCounts()
        self._sources = [source(store) for source in SOURCES]
        self.shadows: Final = Shadows(
            shadow or ShadowPlan(),
            models=admission.models,
            make_pipeline=partial(_pipeline_of_shadow, store, self._sources),
            statistics=statistics,
            is_quiet=lambda: self._arms.is_idle,
            max_seconds=admission.max_seconds,
        )
        self._arms = Arms(
            admission.models,
            store=store,
            sources=self._sources,
            threads=threads,
            statistics=statistics,
            with_sources=self._journal.keeps_impressions,
            ladder=ladder or Ladder(),
            shadows=self.shadows,
        )
        self._around = AroundBatch(self._arms, self.shadows, self._canary, statistics)
        self._many = Many(admission=admission, arms=self._arms, around=self._around, journal=self._journal)

    async def recommend(
        self, query: Query, time_remaining_seconds: float | None, *, traceparent: str | None = None
    ) -> Answer:
        """Answers one query within `time_remaining_seconds` (None: the caller set no deadline).

        `traceparent` is the caller's W3C header; None: it sent none.

        Raises RequestError. A dependency that fails raises nothing: the answer is degraded.
        """
        require_user(query.user_id)
        with taking_turn():
            started = time.perf_counter()
            admitted = self._admission.admit(query, time_remaining_seconds, traced=self._journal.traces)
            self._statistics.stage_seconds["admit"].observe(time.perf_counter() - started)
            try:
                arm = self._arms.of(admitted.model)
                result = await self._in_time(admitted, arm, arm.batches.join)
                self._journal.write(admitted, result, traceparent)
                return result
            finally:
                self._admission.release()

    async def recommend_many(
        self,
        queries: Sequence[Query],
        time_remaining_seconds: float | None,
        *,
        in_bulk: bool = False,
        traceparent: str | None = None,
    ) -> list[Answer | Exception]:
        """Answers up to MAX_QUERIES queries with one deadline. Returns the outcome of each query, in their order: its
        answer; RequestError where it is refused, or no time was left for it; another exception for a bug of ours.

        `in_bulk`: waits for permits instead of being refused, and yields to all other calls.

        Raises RequestError for what concerns all queries.
        """
        admission, permits = self._admission, permits_of(len(queries))
        with taking_turn(num_queries=len(queries), num_permits=permits):
            admission.model()
            seconds = admission.seconds_allowed_to_many(len(queries), time_remaining_seconds, bulk=in_bulk)
            deadline = time.monotonic() + seconds
            if not in_bulk:
                permits = admission.take_many(len(queries))
            else:
                try:
                    async with asyncio.timeout(seconds):
                        permits = await admission.take_bulk(permits)
                except TimeoutError:
                    raise DeadlineTooShort("the time ended before the server had room for a call in bulk") from None
            try:
                return await self._many.outcomes(queries, deadline, in_bulk=in_bulk, traceparent=traceparent)
            finally:
                if in_bulk:
                    admission.release_bulk(permits)
                else:
                    admission.release_many(permits)

    async def recommend_bulk(self, query: Query) -> Answer:
        """Like `recommend`, for a bulk entry: waits for a permit instead of being refused, and yields to all calls that
        the same model answers."""
        require_user(query.user_id)
        take_turn_in_bulk()
        admitted = await self._admission.admit_bulk(query)
        try:
            arm = self._arms.of(admitted.model)
            result = await self._in_time(admitted, arm, arm.batches.join_bulk)
            self._journal.write(admitted, result, None)
            return result
        finally:
            self._admission.release_bulk()

    async def similar_items(self, query: SimilarQuery, time_remaining_seconds: float | None) -> Answer:
        """The items most similar to the named items. Raises RequestError."""
        with taking_turn():
            self._admission.take_permit()
            try:
                seconds = self._admission.seconds_allowed(time_remaining_seconds)
                async with asyncio.timeout(seconds):
                    found = await similar_items(query, self._admission.model(), self._threads)
                    self._statistics.count_warnings(found.warnings)
                    return found
            except TimeoutError as error:
                raise DeadlineTooShort("no answer was found in time") from error
            finally:
                self._admission.release()

    @property
    def traces(self) -> bool:
        """Whether requests are traced; if not, a caller's traceparent is ignored."""
        return self._journal.traces

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a batch."""
        return self._arms.num_waiting

    def forget_arm(self, name: str) -> None:
        """Lets go of what was kept for a model that is no longer in force under this name."""
        self._arms.forget(name)
        self.shadows.forget(name)

    async def start(self) -> None:
        """Starts the background tasks of the sources and the shadows."""
        self.shadows.start()
        self._following = [asyncio.create_task(_follow(source), name=source.name) for source in self._sources]

    async def close(self) -> None:
        """Cancels the background tasks and the batches in progress."""
        await self.shadows.close()
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        await self._arms.close()

    async def _in_time(self, admitted: Admitted, arm: Arm, join: Callable[[Admitted], None]) -> Answer:
        """Answers a request with its batch, or from memory when its time is nearly over."""
        warnings = await self._around.before(admitted)
        caller = admitted.caller
        assert isinstance(caller, Caller)  # a query of RecommendMany has no future of its own
        last_moment_seconds = max(admitted.deadline - SECONDS_TO_ANSWER - time.monotonic(), 0.0)
        timer = asyncio.get_running_loop().call_later(last_moment_seconds, caller.deliver, None)
        try:
            join(admitted)
            result = await caller.wait()
        except Exception as error:
            self._around.failed(admitted, error)
            raise
        finally:
            timer.cancel()
        return self._around.after(admitted, arm, result, warnings)


def _pipeline_of_shadow(
    store: ReadsStore, sources: Sequence[Source], engines: EngineCalls, breaker: Breaker, statistics: Statistics
) -> Pipeline:
    return Pipeline(
        store=store,
        sources=sources,
        engines=engines,
        ranker_breaker=breaker,
        recent_lists=RecentLists(),
        statistics=statistics,
        with_sources=False,
    )


async def _follow(source: Source) -> None:
    """Runs a source's background task. When it fails, the source goes on with what it has read, and the log says so."""
    try:
        await source.follow()
    except Exception as error:  # a bug of the source, which must not pass unnoticed
        _log.error("source_follow_failed", source=source.name, reason=repr(error))

"""One request, read downwards. Every line of `Recommender._answer` is a stage; a module of `stages` holds each.

A request is admitted alone and then shares a micro-batch with those that arrive with it: stages take a batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from inference_server.core.answers import Answer
from inference_server.core.breaker import Breaker
from inference_server.core.errors import DeadlineTooShort
from inference_server.core.query import NO_FILTER, Query, SimilarQuery
from inference_server.request.admission import Admission
from inference_server.request.flow.ladder import SECONDS_TO_ANSWER, Ladder, Rung
from inference_server.request.flow.recent_lists import RecentLists
from inference_server.request.flow.types import Admitted, Chosen, Hydrated, Known, Selection
from inference_server.request.journal import Journal
from inference_server.request.micro_batches import MicroBatches
from inference_server.request.similar_items import similar_items
from inference_server.request.sources.trending import TrendingList
from inference_server.request.stages.answer import answer
from inference_server.request.stages.encode_user import encode_users, user_of
from inference_server.request.stages.fallback import fallback
from inference_server.request.stages.filter_items import check_filter, filter_items, look_up_long_list
from inference_server.request.stages.hydrate import hydrate
from inference_server.request.stages.rank import rank
from inference_server.request.stages.retrieve import retrieve
from inference_server.request.stages.select import select
from inference_server.store.user_store import ReadsStore
from inference_server.telemetry.statistics import StageClock, Statistics
from inference_server.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from inference_server.request.flow.types import Ranked


class Recommender:
    """Answers queries, over whatever protocol they came."""

    def __init__(
        self,
        *,
        admission: Admission,
        store: ReadsStore,
        threads: Executor,
        statistics: Statistics,
        journal: Journal | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        """`threads` run the calls that are too long for the event loop. `journal` None: nothing is written of answers;
        `ladder` None: a new one."""
        self._admission = admission
        self._store = store
        self._threads = threads
        self._statistics = statistics
        self._journal = journal or Journal(Tracing("", sample_ratio=0.0), None)
        self._trending = TrendingList(store)
        self._recent_lists = RecentLists()
        self._ladder = ladder or Ladder()
        self._ranker_breaker = Breaker("ranker", on_change=statistics.watch)
        statistics.watch(self._ranker_breaker)
        self._batches = MicroBatches(self._answer_batch, statistics)

    async def recommend(
        self, query: Query, time_remaining_seconds: float | None, *, traceparent: str | None = None
    ) -> Answer:
        """Answers one query within `time_remaining_seconds` (None: the caller set no deadline).

        `traceparent` is the caller's W3C header, where it sent one.

        Raises RequestError. A dependency that fails raises nothing: the answer is degraded.
        """
        started = time.perf_counter()
        admitted = self._admission.admit(query, time_remaining_seconds, traced=self._journal.traces)
        self._statistics.stage_seconds["admit"].observe(time.perf_counter() - started)
        try:
            result = await self._in_time(admitted, self._batches.join)
            self._journal.write(admitted, result, traceparent)
            return result
        finally:
            self._admission.release()

    async def recommend_bulk(self, query: Query) -> Answer:
        """As `recommend`, for bulk: waits for its turn instead of being refused, and yields to all others."""
        admitted = await self._admission.admit_bulk(query)
        try:
            result = await self._in_time(admitted, self._batches.join_bulk)
            self._journal.write(admitted, result, None)
            return result
        finally:
            self._admission.release_bulk()

    async def similar_items(self, query: SimilarQuery, time_remaining_seconds: float | None) -> Answer:
        """Items near others. Raises RequestError."""
        self._admission.take_permit()
        try:
            seconds = self._admission.seconds_allowed(time_remaining_seconds)
            async with asyncio.timeout(seconds):
                return await similar_items(query, self._admission.model(), self._threads)
        except TimeoutError as error:
            raise DeadlineTooShort("no answer was found in time") from error
        finally:
            self._admission.release()

    @property
    def traces(self) -> bool:
        """Whether requests are traced, and so whether a caller's traceparent is of use."""
        return self._journal.traces

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a batch."""
        return self._batches.num_waiting

    async def start(self) -> None:
        """Begins to follow what is trending."""
        self._following = asyncio.create_task(self._trending.run(), name="trending")

    async def close(self) -> None:
        """Ends what runs in the background."""
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        await self._batches.close()

    async def _answer(self, hydrated: Hydrated, clock: StageClock) -> None:
        """The stages of a batch."""
        encoded, others = await encode_users(hydrated, self._threads, self._ladder, self._statistics)
        clock.lap("encode_user")
        if others:
            popular = fallback(others, filter_items(others, others[0].admitted.model), self._recent_lists)
            clock.lap("fallback")
            self._show(popular, clock)
        for of_rung in encoded:
            allowed = filter_items(of_rung.users, of_rung.model)
            clock.lap("filter")
            candidates = await retrieve(of_rung, allowed, self._trending, self._threads, self._ladder)
            clock.lap("retrieve")
            ranked = await rank(candidates, self._threads, self._ladder, self._ranker_breaker)
            clock.lap("rank")
            self._show(ranked, clock)

    def _show(self, ranked: Sequence[Ranked], clock: StageClock) -> None:
        """The last two stages, and the way back to the callers."""
        for of_ranker in ranked:
            selection = select(of_ranker)
            clock.lap("select")
            answers = self._answers(selection)
            clock.lap("answer")
            for chosen, result in zip(selection.chosen, answers, strict=True):
                self._remember(chosen, of_ranker)
                chosen.user.admitted.caller.deliver(result)

    async def _answer_batch(self, batch: Sequence[Admitted]) -> None:
        traced = [admitted.laps for admitted in batch if admitted.laps is not None]
        clock = StageClock(self._statistics, len(batch), traced)
        async for hydrated in hydrate(batch, self._store):
            clock.lap("hydrate")
            await self._answer(hydrated, clock)

    async def _in_time(self, admitted: Admitted, join: Callable[[Admitted], None]) -> Answer:
        """Has a request answered by its batch, or from memory when its time is nearly over."""
        await look_up_long_list(admitted.query.filter, admitted.model)
        check_filter(admitted.query.filter, admitted.model)
        caller = admitted.caller
        last_moment_seconds = max(admitted.deadline - SECONDS_TO_ANSWER - time.monotonic(), 0.0)
        timer = asyncio.get_running_loop().call_later(last_moment_seconds, caller.deliver, None)
        try:
            join(admitted)
            result = await caller.wait()
        finally:
            timer.cancel()
        if result is None:
            result = self._from_memory(admitted)
        self._statistics.count_answer(result.source, result.degraded_reasons)
        return result

    def _from_memory(self, admitted: Admitted) -> Answer:
        user = user_of(admitted, Known(), Rung.FROM_MEMORY)
        (ranked,) = fallback([user], filter_items([user], admitted.model), self._recent_lists)
        return self._answers(select(ranked))[0]

    def _answers(self, selection: Selection) -> list[Answer]:
        return answer(selection, with_sources=self._journal.keeps_impressions)

    def _remember(self, chosen: Chosen, ranked: Ranked) -> None:
        """Keeps a whole answer for a moment when there is no time for one."""
        admitted = chosen.user.admitted
        query = admitted.query
        if (
            not query.user_id
            or ranked.is_ordered
            or chosen.user.degraded_reasons
            or query.filter is not NO_FILTER
            or query.page_token
            or query.scenario
            or not query.exclude_seen
        ):
            return
        rows = admitted.model.catalogue.stable_rows(chosen.list_rows)
        self._recent_lists.put(query.user_id, admitted.model.version, rows, chosen.list_scores)

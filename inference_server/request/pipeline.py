"""The path of a batch, read downwards: each line of `Pipeline.answers` is a stage, and `stages/` has a module for each.

The types that pass from line to line are in `flow/types.py`, and timing is in `flow/stage_clock.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from inference_server.core.breaker import Breaker
from inference_server.request.flow.engine_calls import EngineCalls
from inference_server.request.flow.recent_lists import RecentLists
from inference_server.request.flow.types import Admitted, Answered
from inference_server.request.sources.source import Source
from inference_server.request.stages.answer import answer
from inference_server.request.stages.encode_users import encode_users, user_from_memory
from inference_server.request.stages.fallback import fallback
from inference_server.request.stages.filter_items import filter_items
from inference_server.request.stages.hydrate import hydrate
from inference_server.request.stages.rank import rank
from inference_server.request.stages.retrieve import retrieve
from inference_server.request.stages.select import select
from inference_server.store.user_store import ReadsStore
from inference_server.telemetry.statistics import Statistics


class Pipeline:
    """The stages and their dependencies. One per worker."""

    def __init__(
        self,
        *,
        store: ReadsStore,
        sources: Sequence[Source],
        engines: EngineCalls,
        ranker_breaker: Breaker,
        recent_lists: RecentLists,
        statistics: Statistics,
        with_sources: bool,
    ) -> None:
        """`with_sources` fills `Answer.sources`."""
        self._store = store
        self._sources = sources
        self._engines = engines
        self._ranker_breaker = ranker_breaker
        self._recent_lists = recent_lists
        self._statistics = statistics
        self._with_sources = with_sources

    async def answers(self, batch: Sequence[Admitted]) -> AsyncIterator[list[Answered]]:
        """Yields the answers of a batch as they are ready: first the answers from memory, which need no search."""
        async for hydrated in hydrate(batch, self._store):
            encoded, without_vector = await encode_users(hydrated, self._engines, self._statistics)
            if without_vector:
                listed = fallback(without_vector, filter_items(without_vector), self._recent_lists)
                yield answer(select(listed), with_sources=self._with_sources)
            for encoded_rung in encoded:
                allowed = filter_items(encoded_rung.users)
                candidates = await retrieve(encoded_rung, allowed, self._sources, self._engines)
                ranked = await rank(candidates, self._engines, self._ranker_breaker, self._statistics)
                yield answer(select(ranked), with_sources=self._with_sources)

    def answer_from_memory(self, admitted: Admitted) -> Answered:
        """Answers a request whose time is nearly over, without the store and without a batch."""
        users = [user_from_memory(admitted)]
        ranked = fallback(users, filter_items(users), self._recent_lists)
        return answer(select(ranked), with_sources=self._with_sources)[0]

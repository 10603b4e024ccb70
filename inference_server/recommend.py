"""One request, read downwards. Every line of `Recommender.recommend` is a stage; a module of `stages` holds each."""

from __future__ import annotations

from concurrent.futures import Executor

import structlog

from inference_server.query import Query
from inference_server.stages.admit import Admission
from inference_server.stages.answer import Answer, answer
from inference_server.stages.encode_user import encode_user
from inference_server.stages.fallback import popular_items
from inference_server.stages.hydrate import hydrate
from inference_server.stages.retrieve import retrieve
from inference_server.stages.select import select
from inference_server.statistics import StageClock, Statistics
from inference_server.store import UserStore

_log = structlog.get_logger()


class Recommender:
    """Answers queries, over whatever protocol they came."""

    def __init__(self, *, admission: Admission, store: UserStore, threads: Executor, statistics: Statistics) -> None:
        """`threads` run the calls that are too long for the event loop."""
        self._admission = admission
        self._store = store
        self._threads = threads
        self._statistics = statistics

    async def recommend(self, query: Query, time_remaining_seconds: float | None) -> Answer:
        """Answers one query within `time_remaining_seconds` (None: the caller set no deadline).

        Raises RequestError. A dependency that fails raises nothing: the answer is degraded.
        """
        clock = StageClock(self._statistics)
        admitted = self._admission.admit(query, time_remaining_seconds)
        try:
            clock.lap("admit")
            hydrated = await hydrate(admitted, self._store)
            clock.lap("hydrate")
            encoded = await encode_user(hydrated, self._threads, self._statistics)
            clock.lap("encode_user")
            if encoded.vector is not None:
                candidates = await retrieve(encoded, encoded.vector, self._threads)
                clock.lap("retrieve")
            else:
                candidates = popular_items(encoded)
                clock.lap("fallback")
            selection = select(candidates)
            clock.lap("select")
            result = answer(selection)
            clock.lap("answer")
        finally:
            self._admission.release()
        self._statistics.count_answer(result.source, result.degraded_reasons)
        _log.debug("answered", request_id=result.request_id, user_id=query.user_id, source=result.source)
        return result

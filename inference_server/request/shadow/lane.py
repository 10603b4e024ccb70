"""The path of a shadow's requests: the stages of any request, with nothing that a caller's request uses.

Ladders, breakers, lists in memory and the counts of stages are its own, and every call into an engine runs in one
thread of its own. What it shares with the callers is the event loop, the online store and the bundles.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from inference_server.core.breaker import Breaker
from inference_server.core.daemon_thread import DaemonExecutor
from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.engine_calls import EngineCalls, ThreadedEngineCalls
from inference_server.request.flow.ladder import Ladder
from inference_server.request.flow.stage_clock import StageClock
from inference_server.request.flow.types import Admitted, Answered, Caller
from inference_server.request.stages.filter_items import check_filter, look_up_long_list
from inference_server.telemetry.statistics import Statistics


class AnswersBatches(Protocol):
    """The stages."""

    def answers(self, batch: Sequence[Admitted]) -> AsyncIterator[list[Answered]]:
        """See `Pipeline.answers`."""
        ...


MakePipeline = Callable[[EngineCalls, Breaker, Statistics], AnswersBatches]
"""Makes the stages that call these engines, with this breaker of the ranker, and count there. Their lists in memory are
their own, and stay empty."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers to one batch."""

    by_request: Mapping[str, Answered]
    seconds: float
    """Time of the batch in the stages."""

    @property
    def complete(self) -> bool:
        """Whether no answer is degraded."""
        return not any(answered.answer.degraded_reasons for answered in self.by_request.values())


class Lane:
    """Answers batches with one model after another."""

    def __init__(self, name: str, *, make_pipeline: MakePipeline, threads: DaemonExecutor, max_seconds: float) -> None:
        """`name` is the breaker's; `max_seconds` is the time that a request may take."""
        self._max_seconds = max_seconds
        self._statistics = Statistics()  # never shown: the callers' stages alone are
        self._ladder = Ladder()
        engines = ThreadedEngineCalls(threads, self._ladder)
        self._pipeline = make_pipeline(engines, Breaker(f"shadow:{name}"), self._statistics)

    async def answers(self, model: ServingModel, batch: Sequence[Admitted]) -> Answers:
        """Answers requests that another model has answered, so that only the model differs: user, query, policy and
        seed are the same. Raises what a model raises."""
        for admitted in batch:
            await look_up_long_list(admitted.query.filter, model)
            check_filter(admitted.query.filter, model)
        started_at, now = time.perf_counter(), time.monotonic()
        caller = Caller(asyncio.get_running_loop())  # nobody
        requests = [
            replace(
                admitted,
                query=replace(admitted.query, explain=False),
                model=model,
                caller=caller,
                admitted_at=now,
                deadline=now + self._max_seconds,
                assignments=(),
                arm_unavailable=False,
                laps=None,
            )
            for admitted in batch
        ]
        StageClock(self._statistics, self._ladder, len(requests)).start()
        found = {}
        async for answers in self._pipeline.answers(requests):
            found.update({answered.answer.request_id: answered for answered in answers})
        return Answers(by_request=found, seconds=time.perf_counter() - started_at)

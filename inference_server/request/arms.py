"""What each model in force has to itself, so that a slow or failing one degrades its own answers alone.

That is a ladder, which knows the cost of its stages; threads for its long calls; the breaker of its ranker; and its
micro-batches, because a batch holds requests of one model. Models share the store, the sources, the lists in memory and
the pace of batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from inference_server.core.answers import Answer
from inference_server.core.breaker import Breaker
from inference_server.core.degradation import Degraded
from inference_server.model.serving_model import ModelSlot, ServingModel
from inference_server.request.flow.engine_calls import CarefulEngineCalls, EngineCalls
from inference_server.request.flow.ladder import Ladder
from inference_server.request.flow.recent_lists import RecentLists
from inference_server.request.flow.stage_clock import StageClock
from inference_server.request.flow.types import Admitted
from inference_server.request.micro_batches import MicroBatches, Pace
from inference_server.request.pipeline import Pipeline
from inference_server.request.shadow.shadows import Shadows
from inference_server.request.sources.source import Source
from inference_server.store.user_store import ReadsStore
from inference_server.telemetry.metrics import new_seconds
from inference_server.telemetry.statistics import Statistics

RANKER: Final = "ranker"
"""The breaker of the ranker of the server's own model; a further model's has its name behind it."""
_THREADS: Final = 1
"""Threads for the long calls of a further model. They would take the core from the own model's calls."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The parts of one model's path."""

    name: str
    """The alias or version number that names the model; empty: the server's own model."""
    pipeline: Pipeline
    ladder: Ladder
    batches: MicroBatches
    breaker: Breaker
    threads: Executor | None
    """Its own threads; None: they belong to somebody else."""


class Arms:
    """The arms of one worker, each made with its first request."""

    def __init__(
        self,
        models: ModelSlot,
        *,
        store: ReadsStore,
        sources: Sequence[Source],
        threads: Executor,
        statistics: Statistics,
        with_sources: bool,
        ladder: Ladder,
        shadows: Shadows,
    ) -> None:
        """`threads` and `ladder` are those of the server's own model; `with_sources` fills `Answer.sources`; `shadows`
        are shown what was answered."""
        self._models = models
        self._store = store
        self._sources = sources
        self._statistics = statistics
        self._with_sources = with_sources
        self._shadows = shadows
        self._recent_lists = RecentLists()
        self._pace = Pace()
        self._own = self._made("", EngineCalls(threads, ladder), Breaker(RANKER, on_change=statistics.watch), None)
        self._by_variant: dict[str, Arm] = {}

    def of(self, model: ServingModel) -> Arm:
        """The arm of a model in force."""
        return self._by_variant.get(model.variant) or self._arm(model.variant)

    def count(self, admitted: Admitted, answer: Answer) -> None:
        """Counts an answer for its model, while there are several."""
        named = admitted.query.model
        if not named and not self._models.further:
            return
        statistics, model = self._statistics, answer.variant
        statistics.answers_by_model[model] += 1
        if model not in statistics.seconds_by_model:
            statistics.seconds_by_model[model] = new_seconds()
        statistics.seconds_by_model[model].observe(time.monotonic() - admitted.admitted_at)
        for reason in answer.degraded_reasons:
            # The model that is missing has degraded the answer, not the one that stands in for it.
            statistics.degraded_by_model[
                (named or model) if reason is Degraded.ARM_UNAVAILABLE else model, str(reason)
            ] += 1

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a batch."""
        return self._own.batches.num_waiting + sum(arm.batches.num_waiting for arm in self._further())

    @property
    def is_idle(self) -> bool:
        """Whether no request waits for a batch and no batch is in progress."""
        return self._own.batches.is_idle and all(arm.batches.is_idle for arm in self._further())

    def forget(self, name: str) -> None:
        """Drops the arm of a model that is no longer in force. Its batches in progress are answered."""
        arm = self._by_variant.pop(name, None)
        if arm is not None and arm is not self._own:
            # Its threads end with the last batch that refers to them.
            self._statistics.breakers.pop(arm.breaker.name, None)

    async def close(self) -> None:
        """Cancels the batches in progress."""
        further = self._further()
        await asyncio.gather(*(arm.batches.close() for arm in (self._own, *further)))
        for arm in further:
            if arm.threads is not None:
                arm.threads.shutdown(wait=False, cancel_futures=True)

    def _further(self) -> list[Arm]:
        return [arm for arm in self._by_variant.values() if arm is not self._own]

    def _arm(self, variant: str) -> Arm:
        if variant in self._models.further:
            threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"engine-{variant}")
            breaker = Breaker(f"{RANKER}:{variant}", on_change=self._statistics.watch)
            arm = self._made(variant, CarefulEngineCalls(threads, Ladder()), breaker, threads)
        elif self._models.current is None or variant == self._models.current.variant:
            arm = self._own
        else:
            return self._own  # a model that has left: its last requests
        self._by_variant[variant] = arm
        return arm

    def _made(self, name: str, engines: EngineCalls, breaker: Breaker, threads: Executor | None) -> Arm:
        statistics, ladder = self._statistics, engines.ladder
        statistics.watch(breaker)
        pipeline = Pipeline(
            store=self._store,
            sources=self._sources,
            engines=engines,
            ranker_breaker=breaker,
            recent_lists=self._recent_lists,
            statistics=statistics,
            with_sources=self._with_sources,
        )

        async def answer(batch: Sequence[Admitted]) -> None:
            """Sends a batch through the pipeline, and its answers back to the callers."""
            # The queries of one call share a list, which must have each stage of the batch once.
            traced = {id(admitted.laps): admitted.laps for admitted in batch if admitted.laps is not None}
            StageClock(statistics, ladder, len(batch), list(traced.values())).start()
            async for answers in pipeline.answers(batch):
                for answered in answers:
                    self._recent_lists.remember(answered)
                    caller = answered.chosen.user.admitted.caller
                    is_late = caller.gone
                    caller.deliver(answered.answer)
                    if not is_late:
                        self._shadows.offer(answered)

        return Arm(
            name=name,
            pipeline=pipeline,
            ladder=ladder,
            batches=MicroBatches(answer, statistics, self._pace),
            breaker=breaker,
            threads=threads,
        )

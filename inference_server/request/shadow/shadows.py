"""The shadow models of a worker: which requests they answer.

Called for every answer, so an answer that was not chosen costs a checksum, and one that was an entry of a queue.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from inference_server.core.degradation import Source as AnswerSource
from inference_server.core.shadow_outcome import ShadowOutcome
from inference_server.model.serving_model import ModelSlot
from inference_server.request.flow.types import Admitted, Answered
from inference_server.request.shadow.comparison import OwnAnswer
from inference_server.request.shadow.lane import MakePipeline
from inference_server.request.shadow.shadow_model import ShadowModel
from inference_server.telemetry.statistics import Statistics

_PERSONAL = (AnswerSource.RANKED, AnswerSource.RETRIEVED)


@dataclass(frozen=True, kw_only=True)
class ShadowPlan:
    """Which models answer beside the callers, and how often."""

    models: tuple[str, ...] = ()
    """Aliases and version numbers; empty: none."""
    share: float = 0.0
    """Share of the answers, 0 to 1, chosen by request id."""


class Shadows:
    """All shadow models."""

    def __init__(
        self,
        plan: ShadowPlan,
        *,
        models: ModelSlot,
        make_pipeline: MakePipeline,
        statistics: Statistics,
        is_quiet: Callable[[], bool],
        max_seconds: float,
    ) -> None:
        """See `ShadowModel` for the parts."""
        self._models = models
        self._num_kept_checksums = round(plan.share * (1 << 32)) if plan.models else 0
        self._shadows = [
            ShadowModel(
                name,
                models=models,
                make_pipeline=make_pipeline,
                statistics=statistics,
                is_quiet=is_quiet,
                max_seconds=max_seconds,
            )
            for name in plan.models
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def offer(self, answered: Answered) -> None:
        """Takes note of an answer that was just handed over. Never blocks and raises nothing."""
        if not self._num_kept_checksums or not self._chosen(answered.answer.request_id):
            return
        outcome = self._not_comparable(answered)
        if outcome is not None:
            self._pass_over(outcome)
            return
        answer, user = answered.answer, answered.chosen.user
        own = OwnAnswer(
            admitted=user.admitted,
            item_ids=answer.item_ids,
            scores=answer.scores,
            state_revision=user.state.revision,
            answered_at=time.monotonic(),
        )
        for shadow in self._shadows:
            shadow.offer(own)

    def pass_over_late(self, admitted: Admitted) -> None:
        """Counts a request that was answered from memory because its batch was late, if it was chosen."""
        if self._num_kept_checksums and self._chosen(admitted.request_id):
            self._pass_over(ShadowOutcome.OWN_DEGRADED)

    def forget(self, name: str) -> None:
        """Lets go of what was counted of a model that is no longer in force under this name."""
        for shadow in self._shadows:
            if shadow.name == name:
                shadow.forget()

    def start(self) -> None:
        """Starts to answer."""
        self._tasks = [asyncio.create_task(shadow.run(), name=f"shadow-{shadow.name}") for shadow in self._shadows]

    async def close(self) -> None:
        """Answers no more, and drops what waits. May be called twice."""
        self._num_kept_checksums = 0
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for shadow in self._shadows:
            shadow.close()

    def _chosen(self, request_id: str) -> bool:
        # As for impressions: of a smaller and a larger share, the larger one has all that the smaller one has.
        return zlib.crc32(request_id.encode()) < self._num_kept_checksums

    def _pass_over(self, outcome: ShadowOutcome) -> None:
        for shadow in self._shadows:
            shadow.pass_over(outcome)

    def _not_comparable(self, answered: Answered) -> ShadowOutcome | None:
        """Why an answer of the own model is not compared; None where it is."""
        answer, admitted = answered.answer, answered.chosen.user.admitted
        current = self._models.current
        if current is None or admitted.model.version != current.version:
            return ShadowOutcome.OTHER_MODEL
        if answer.degraded_reasons:
            return ShadowOutcome.OWN_DEGRADED
        if admitted.query.page_token:
            return ShadowOutcome.LATER_PAGE
        if answer.source not in _PERSONAL or not answer.item_ids:
            return ShadowOutcome.OWN_NOT_RANKED
        return None

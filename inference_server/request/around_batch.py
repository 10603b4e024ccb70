"""What happens to a request before it joins a batch, and after the batch has answered it, whatever its call."""

from __future__ import annotations

import time
from dataclasses import replace

from inference_server.canary.counts import CanaryCounts
from inference_server.canary.layer import sticky_value
from inference_server.core.answers import Answer
from inference_server.core.degradation import Source
from inference_server.core.errors import RequestError
from inference_server.core.request_warnings import RequestWarning
from inference_server.request.arms import Arm, Arms
from inference_server.request.flow.types import Admitted
from inference_server.request.shadow.shadows import Shadows
from inference_server.request.stages.filter_items import (
    check_filter,
    filter_warnings,
    look_up_long_list,
    recent_items_warnings,
)
from inference_server.telemetry.statistics import Statistics


class AroundBatch:
    """The steps that no batch shares."""

    def __init__(self, arms: Arms, shadows: Shadows, canary: CanaryCounts, statistics: Statistics) -> None:
        self._arms = arms
        self._shadows = shadows
        self._canary = canary
        self._statistics = statistics

    async def before(self, admitted: Admitted) -> tuple[RequestWarning, ...]:
        """Checks the request against its model, and returns the warnings about it. Raises InvalidRequest."""
        query, model = admitted.query, admitted.model
        if query.filter.exclude_digest:
            await look_up_long_list(query.filter, model)
        check_filter(query.filter, model)
        return filter_warnings(query.filter, admitted.policy.rules, model)

    def after(
        self, admitted: Admitted, arm: Arm, answer: Answer | None, warnings: tuple[RequestWarning, ...]
    ) -> Answer:
        """The answer with all of its warnings; from memory where the batch had none in time (None). Counts it."""
        if answer is None:
            answer = arm.pipeline.answer_from_memory(admitted).answer
            self._shadows.pass_over_late(admitted)
        self._statistics.count_answer(answer.source, answer.degraded_reasons)
        self._arms.count(admitted, answer)
        if self._canary.experiment:
            self._canary.answered(
                answer,
                sticky_value(admitted.query),
                num_items=admitted.num_items,
                seconds=time.monotonic() - admitted.admitted_at,
            )
        if answer.source is Source.POPULAR and admitted.query.recent_item_ids:
            warnings += recent_items_warnings(admitted.query.recent_item_ids, admitted.model)
        if not warnings:
            return answer
        self._statistics.count_warnings(warnings)
        return replace(answer, warnings=warnings)

    def failed(self, admitted: Admitted, error: Exception) -> None:
        """Notes that a request ended without an answer. A canary is held to failures that are no refusals."""
        if not isinstance(error, RequestError):
            self._canary.failed(admitted.assignments, sticky_value(admitted.query))

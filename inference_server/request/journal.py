"""Records of an answer: a log line, impressions, a trace. Each is off by default, and costs a request one check
then."""

from __future__ import annotations

import time
from typing import Final

from inference_server.core.answers import Answer
from inference_server.request.flow.types import Admitted
from inference_server.security.callers import caller_name
from inference_server.telemetry.impressions import Impression, ImpressionLog
from inference_server.telemetry.logs import log_answered, logs_answers
from inference_server.telemetry.tracing import Tracing

_SPAN: Final = "Recommend"


class Journal:
    """Records answers."""

    def __init__(self, tracing: Tracing, impressions: ImpressionLog | None) -> None:
        """`impressions` None: none are written."""
        self._tracing = tracing
        self._impressions = impressions
        self._logs_answers = logs_answers()

    @property
    def traces(self) -> bool:
        """Whether `write` needs the times of the stages."""
        return self._tracing.enabled

    @property
    def keeps_impressions(self) -> bool:
        """Whether `write` needs the sources of the items."""
        return self._impressions is not None

    def write(self, admitted: Admitted, answer: Answer, traceparent: str | None) -> None:
        """Records one answer. Never blocks and raises nothing."""
        query = admitted.query
        if self._logs_answers:
            log_answered(
                request_id=answer.request_id,
                user_id=query.user_id,
                source=answer.source,
                degraded_reasons=answer.degraded_reasons,
                milliseconds=(time.monotonic() - admitted.admitted_at) * 1e3,
                caller=caller_name(),
            )
        if self._impressions is not None:
            impression = Impression(
                request_id=answer.request_id,
                user_id=query.user_id,
                scenario=query.scenario,
                variant=answer.variant,
                model_version=answer.model_version,
                at_seconds=time.time(),
                context=query.context,
                item_ids=answer.item_ids,
                sources=answer.sources,
                scores=answer.scores,
                propensities=answer.propensities or [1.0] * len(answer.item_ids),
                first_position=len(admitted.shown_rows),
            )
            self._impressions.write([impression])
        if admitted.laps is not None:
            ended_at_ns = time.time_ns()
            self._tracing.record(
                name=_SPAN,
                started_at_ns=ended_at_ns - int((time.monotonic() - admitted.admitted_at) * 1e9),
                ended_at_ns=ended_at_ns,
                stages=admitted.laps,
                attributes={
                    "request_id": answer.request_id,
                    "source": str(answer.source),
                    "model_version": answer.model_version,
                    "degraded_reasons": ",".join(answer.degraded_reasons),
                    "num_items": len(answer.item_ids),
                },
                traceparent=traceparent,
            )

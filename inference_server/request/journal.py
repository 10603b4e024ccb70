"""Records of an answer: a log line, impressions, a trace. Each is off by default, and costs a request one check
then."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

from inference_server.core.answers import Answer
from inference_server.request.flow.types import Admitted, Lap
from inference_server.security.callers import caller_name
from inference_server.telemetry.impressions import ImpressionSink
from inference_server.telemetry.logs import log_answered, logs_answers
from inference_server.telemetry.tracing import Tracing
from tandem.contract.impressions import Impression, ShownArm

_SPAN: Final = "Recommend"
_MANY_SPAN: Final = "RecommendMany"
_PLACEMENT: Final = "placement"
"""Key of a request's context that names where the items are shown."""


class Journal:
    """Records answers."""

    def __init__(
        self, tracing: Tracing, impressions: Sequence[ImpressionSink] = (), *, impressions_share: float = 1.0
    ) -> None:
        """`impressions` take this share of the answers, 0 to 1, chosen by request id; empty: none are recorded."""
        self._tracing = tracing
        self._impressions = tuple(impressions)
        self._num_kept_checksums = round(impressions_share * (1 << 32))
        self._logs_answers = logs_answers()

    @property
    def traces(self) -> bool:
        """Whether `write` needs the times of the stages."""
        return self._tracing.enabled

    @property
    def keeps_impressions(self) -> bool:
        """Whether `write` needs the sources of the items."""
        return bool(self._impressions)

    def write(self, admitted: Admitted, answer: Answer, traceparent: str | None) -> None:
        """Records one answer, with its trace. Never blocks and raises nothing."""
        self.record(admitted, answer)
        if admitted.laps is not None:
            self._trace(
                _SPAN,
                admitted.admitted_at,
                admitted.laps,
                {
                    "request_id": answer.request_id,
                    "source": str(answer.source),
                    "model_version": answer.model_version,
                    "degraded_reasons": ",".join(answer.degraded_reasons),
                    "num_items": len(answer.item_ids),
                },
                traceparent,
            )

    def trace_many(
        self, outcomes: Sequence[Answer | Exception], started_at: float, laps: Sequence[Lap], traceparent: str | None
    ) -> None:
        """Records the trace of a call with many queries: one span, with the stages of all its batches as children.
        `started_at` is in seconds of time.monotonic. Never blocks and raises nothing."""
        answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
        attributes: dict[str, str | int] = {
            "num_queries": len(outcomes),
            "num_refused": len(outcomes) - len(answers),
            "num_degraded": sum(bool(answer.degraded_reasons) for answer in answers),
            "model_versions": ",".join(sorted({answer.model_version for answer in answers})),
            "request_ids": ",".join(answer.request_id for answer in answers),
        }
        self._trace(_MANY_SPAN, started_at, laps, attributes, traceparent)

    def record(self, admitted: Admitted, answer: Answer) -> None:
        """Records one answer in the log and as an impression. Never blocks and raises nothing."""
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
        # The checksum of a random id is uniform, and a report can tell from the id whether an answer was recorded.
        if self._impressions and zlib.crc32(answer.request_id.encode()) < self._num_kept_checksums:
            impressions = [_impression(admitted, answer)]
            for sink in self._impressions:
                sink.write(impressions)

    def _trace(
        self,
        name: str,
        started_at: float,
        laps: Sequence[Lap],
        attributes: Mapping[str, str | int],
        traceparent: str | None,
    ) -> None:
        ended_at_ns = time.time_ns()
        self._tracing.record(
            name=name,
            started_at_ns=ended_at_ns - int((time.monotonic() - started_at) * 1e9),
            ended_at_ns=ended_at_ns,
            stages=laps,
            attributes=attributes,
            traceparent=traceparent,
        )


def _impression(admitted: Admitted, answer: Answer) -> Impression:
    query = admitted.query
    latency_us = int((time.monotonic() - admitted.admitted_at) * 1e6)
    return Impression(
        request_id=answer.request_id,
        timestamp=time.time_ns() // 1000,
        user_id=query.user_id,
        scenario=query.scenario,
        placement=query.context.get(_PLACEMENT, ""),
        context=query.context,
        model_version=answer.model_version,
        variant=answer.variant,
        policy_fingerprint=admitted.policies_fingerprint,
        answer_source=answer.source.lower(),
        degraded_reasons=answer.degraded_reasons,
        assignments=[ShownArm(arm.experiment, arm.arm, arm.exposed) for arm in answer.assignments],
        first_position=len(admitted.shown_rows),
        item_ids=answer.item_ids,
        sources=answer.sources,
        scores=answer.scores,
        propensities=answer.propensities or [1.0] * len(answer.item_ids),
        num_candidates=answer.num_candidates,
        ranks=answer.ranks,
        latency_us=latency_us,
    )

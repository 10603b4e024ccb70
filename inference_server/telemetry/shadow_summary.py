"""What was counted of shadow models, as GetServingStatus and `python -m inference_server shadow` show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inference_server.core.shadow_outcome import SHADOW_FAULTS, ShadowOutcome
from inference_server.telemetry.histogram import Histogram
from inference_server.telemetry.metrics import WorkerMetrics
from inference_server.telemetry.shadow_counts import SAME_FIRST_ITEM, SAME_LIST, SHORTER, Side


@dataclass(frozen=True, kw_only=True)
class SideSummary:
    """One of the two models, on the requests that were compared."""

    seconds: Histogram
    scores: Histogram
    popularity: Histogram
    categories: Histogram


@dataclass(frozen=True, kw_only=True)
class ShadowSummary:
    """One shadow model beside the own model."""

    model: str
    """Alias or version number."""
    model_version: str
    """Empty while the model is not in force."""
    own_version: str
    outcomes: Mapping[str, int]
    """Requests by `ShadowOutcome`, those that happened."""
    degraded: Mapping[str, int]
    """Degraded answers of the shadow by reason."""
    overlap: Histogram
    rank_biased_overlap: Histogram
    rank_shift: Histogram
    score_difference: Histogram
    slowdown: Histogram
    """Time of the shadow as a multiple of the own model's, by timed batch."""
    num_same_first_item: int
    num_same_list: int
    num_shorter: int
    sides: Mapping[Side, SideSummary]

    @property
    def num_compared(self) -> int:
        """Requests whose two answers were compared."""
        return self.outcomes.get(ShadowOutcome.COMPARED, 0)

    @property
    def num_faults(self) -> int:
        """Requests that the shadow answered as no model must."""
        return sum(self.outcomes.get(fault, 0) for fault in SHADOW_FAULTS)

    @property
    def num_answered(self) -> int:
        """Requests that the shadow answered, or failed to answer."""
        answered = (ShadowOutcome.COMPARED, ShadowOutcome.STATE_CHANGED, ShadowOutcome.DEGRADED)
        return self.num_faults + sum(self.outcomes.get(outcome, 0) for outcome in answered)


def shadow_summaries(statistics: WorkerMetrics) -> list[ShadowSummary]:
    """One summary for each shadow model and pair of versions, by name."""
    return [_summary(statistics, key) for key in sorted(statistics.shadow_overlap)]


def _summary(statistics: WorkerMetrics, key: tuple[str, ...]) -> ShadowSummary:
    model, model_version, own_version = key
    lists = _of(statistics.shadow_lists, key)
    return ShadowSummary(
        model=model,
        model_version=model_version,
        own_version=own_version,
        outcomes=_of(statistics.shadow_requests, key),
        degraded=_of(statistics.shadow_degraded, key),
        overlap=statistics.shadow_overlap[key],
        rank_biased_overlap=statistics.shadow_rank_biased_overlap[key],
        rank_shift=statistics.shadow_rank_shift[key],
        score_difference=statistics.shadow_score_difference[key],
        slowdown=statistics.shadow_slowdown[key],
        num_same_first_item=lists.get(SAME_FIRST_ITEM, 0),
        num_same_list=lists.get(SAME_LIST, 0),
        num_shorter=lists.get(SHORTER, 0),
        sides={
            side: SideSummary(
                seconds=statistics.shadow_seconds[*key, side],
                scores=statistics.shadow_scores[*key, side],
                popularity=statistics.shadow_popularity[*key, side],
                categories=statistics.shadow_categories[*key, side],
            )
            for side in Side
        },
    )


def _of(table: Mapping[tuple[str, ...], int], key: tuple[str, ...]) -> dict[str, int]:
    """The counts of one pair of versions by the last label, without those that are 0."""
    return {label: count for (*labels, label), count in table.items() if tuple(labels) == key and count}

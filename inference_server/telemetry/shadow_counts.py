"""What is counted of one shadow model, for one pair of versions, among the metrics of the worker."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Final

from inference_server.core.degradation import Degraded
from inference_server.core.shadow_outcome import ShadowOutcome
from inference_server.telemetry.histogram import Histogram
from inference_server.telemetry.metrics import SHADOW_LABELS, WorkerMetrics
from inference_server.telemetry.worker_metric import worker_metrics

_TABLES: Final = {
    attribute: metric
    for attribute, metric in worker_metrics(WorkerMetrics).items()
    if metric.labels[: len(SHADOW_LABELS)] == SHADOW_LABELS
}
SAME_FIRST_ITEM: Final = "same_first_item"
SAME_LIST: Final = "same_list"
SHORTER: Final = "shorter"


class Side(StrEnum):
    """Whose answer."""

    OWN = "own"
    SHADOW = "shadow"


class ShadowCounts:
    """Counts for one shadow model, the version that it has and the version that it is compared with."""

    def __init__(self, statistics: WorkerMetrics, *, model: str, model_version: str, own_version: str) -> None:
        """Shows the pair of versions at 0, and lets go of what was counted of this model with other versions."""
        self.versions: Final = (model_version, own_version)
        self._statistics = statistics
        self._key = (model, model_version, own_version)
        forget_shadow(statistics, model)
        for outcome in ShadowOutcome:
            statistics.shadow_requests[*self._key, outcome] = 0
        self.overlap: Final = self._new("shadow_overlap")
        self.rank_biased_overlap: Final = self._new("shadow_rank_biased_overlap")
        self.rank_shift: Final = self._new("shadow_rank_shift")
        self.score_difference: Final = self._new("shadow_score_difference")
        self.slowdown: Final = self._new("shadow_slowdown")
        self.scores: Final = self._new_by_side("shadow_scores")
        self.popularity: Final = self._new_by_side("shadow_popularity")
        self.categories: Final = self._new_by_side("shadow_categories")
        self.seconds: Final = self._new_by_side("shadow_seconds")

    def count(self, outcome: ShadowOutcome) -> None:
        """Counts what became of one request."""
        self._add(self._statistics.shadow_requests, outcome)

    def count_degraded(self, reason: Degraded) -> None:
        """Counts one reason of a degraded answer of the shadow."""
        self._add(self._statistics.shadow_degraded, reason)

    def count_lists(self, *, same_first_item: bool, same_list: bool, shorter: bool) -> None:
        """Counts what holds of one pair of lists; `shorter`: the shadow's is."""
        for what, holds in ((SAME_FIRST_ITEM, same_first_item), (SAME_LIST, same_list), (SHORTER, shorter)):
            self._add(self._statistics.shadow_lists, what, holds)

    def _add(self, table: Counter[tuple[str, ...]], label: str, number: int = 1) -> None:
        if self._key in self._statistics.shadow_overlap:  # else the versions have changed during an answer
            table[*self._key, label] += number

    def _new(self, table: str, *labels: str) -> Histogram:
        made = Histogram(_TABLES[table].buckets)
        getattr(self._statistics, table)[*self._key, *labels] = made
        return made

    def _new_by_side(self, table: str) -> dict[Side, Histogram]:
        return {side: self._new(table, side) for side in Side}


def forget_shadow(statistics: WorkerMetrics, model: str) -> None:
    """Lets go of everything counted of a shadow model."""
    for attribute in _TABLES:
        table = getattr(statistics, attribute)
        for key in [key for key in table if key[0] == model]:
            del table[key]

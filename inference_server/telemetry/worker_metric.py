"""The declaration of a metric that every worker counts and the supervisor shows for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Any

from inference_server.telemetry.histogram import Histogram
from tandem.ops.metrics import Kind, Metric, declared


class Merge(StrEnum):
    """How one number is made of the workers' numbers; by label where the metric has labels."""

    SUM = "sum"
    """Each worker counts its own share."""
    MAX = "max"
    """All workers look at the same thing, and some lag behind."""
    MIN = "min"
    """A flag that is true of the server only where it is true in every worker that has it."""
    WORST = "worst"
    """The state with the highest severity."""


@dataclass(frozen=True)
class WorkerMetric(Metric):
    """A metric of the workers.

    Its attribute begins as the kind and the labels say, see `initial`. With one label the keys are that label's values,
    with several labels they are tuples of values. A metric with `severity` shows states: its last label is the state,
    and its attribute maps the values of the labels before to the current state.
    """

    _: KW_ONLY
    merge: Merge
    values: tuple[str, ...] = ()
    """Label values that are there before anything was counted, so that a rate begins at 0. For one label."""
    severity: Mapping[str, int] = field(default_factory=dict)
    """Every state in the order of the page, and how bad it is: of two workers' states, the higher one shows."""

    def __post_init__(self) -> None:
        """Raises ValueError where the parts of the declaration contradict each other."""
        super().__post_init__()
        if self.kind is Kind.HISTOGRAM and self.merge is not Merge.SUM:
            raise ValueError(f"{self.name}: histograms are summed")
        if (self.merge is Merge.WORST) != bool(self.severity):
            raise ValueError(f"{self.name}: WORST needs the severity of every state, other merges have none")
        if self.merge in {Merge.MIN, Merge.WORST} and not self.labels:
            raise ValueError(f"{self.name}: without labels a value begins at 0, which {self.merge} could never leave")

    @property
    def outlives_worker(self) -> bool:
        """Whether what a worker counted remains true after its end. What it saw last does not."""
        return self.kind is not Kind.GAUGE and self.merge is Merge.SUM

    def initial(self) -> Any:
        """A new value from before anything was counted: 0, Counter, dict or Histogram."""
        if self.kind is Kind.HISTOGRAM:
            return {value: Histogram(self.buckets) for value in self.values} if self.labels else Histogram(self.buckets)
        if not self.labels:
            return 0
        if self.kind is Kind.COUNTER:
            return Counter(dict.fromkeys(self.values, 0))
        return dict.fromkeys(self.values, 0)

    def merged(self, left: Any, right: Any) -> Any:
        """One value of two workers' values. May change `left`, and may return it. Raises KeyError on unknown states."""
        if isinstance(left, Histogram):
            left.add(right)
            return left
        if isinstance(left, dict):
            for key, item in right.items():
                left[key] = self.merged(left[key], item) if key in left else item
            return left
        match self.merge:
            case Merge.SUM:
                return left + right
            case Merge.MAX:
                return max(left, right)
            case Merge.MIN:
                return min(left, right)
            case Merge.WORST:
                return max(left, right, key=self.severity.__getitem__)


def worker_metrics(table: type) -> Mapping[str, WorkerMetric]:
    """The metrics of the workers that a class declares, by attribute, in the order of declaration."""
    return {attribute: metric for attribute, metric in declared(table).items() if isinstance(metric, WorkerMetric)}

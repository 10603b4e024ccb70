"""Tables of users for the tests of statistics, and plans that fit them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from feature_sync.statistics.analyse import analyse
from feature_sync.statistics.plan import MICROSECONDS_PER_DAY, Better, ExperimentPlan, Metric, Role
from feature_sync.statistics.results import ArmResult, MetricResult

VALUE = Metric(name="value", numerator="value")
GUARD = Metric(
    name="guard", numerator="guard", role=Role.GUARDRAIL, better=Better.LOWER, margin=0.01, margin_is_relative=False
)


def plan(*metrics: Metric, **changes: Any) -> ExperimentPlan:
    fields: dict[str, Any] = {
        "experiment": "test",
        "control": "A",
        "shares": {"A": 1.0, "B": 1.0},
        "metrics": metrics or (VALUE,),
        "started": 0,
        "until": 14 * MICROSECONDS_PER_DAY,
    }
    return ExperimentPlan(**(fields | changes))


def users(arms: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A table from columns by arm; the number of users is that of the first column."""
    parts = []
    for arm, columns in arms.items():
        count = len(next(iter(columns.values())))
        names = [f"{arm}-{number}" for number in range(count)]
        parts.append(pd.DataFrame({"user_id": names, "arm": [arm] * count, **columns}))
    return pd.concat(parts, ignore_index=True)


def normal(seed: int, count: int, mean: float = 10.0, deviation: float = 2.0) -> np.ndarray:
    """Numbers with exactly this mean and sample standard deviation."""
    drawn = np.random.default_rng(seed).standard_normal(count)
    return mean + deviation * (drawn - drawn.mean()) / drawn.std(ddof=1)


def zeros_and_ones(ones: int, count: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [ones, count - ones])


def arm_of(table: Any, asked: ExperimentPlan) -> ArmResult:
    """The result of the only arm beside control."""
    (found,) = analyse(table, asked).arms
    return found


def metric_of(table: Any, metrics: Sequence[Metric] | Metric, name: str = "value", **changes: Any) -> MetricResult:
    asked = plan(*([metrics] if isinstance(metrics, Metric) else metrics), **changes)
    (found,) = [result for result in arm_of(table, asked).metrics if result.metric == name]
    return found

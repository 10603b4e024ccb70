"""Ranking metrics for one held-out item per user, from its rank; bootstrap over users.

With one relevant item Recall@k is the hit rate, the ideal DCG is 1, and MAP@k is the reciprocal rank cut at k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PerUser = npt.NDArray[np.float64]
"""(users,) float64, a metric of each user."""

CUTOFF = 10
BOOTSTRAP_DRAWS = 1_000


def metrics_per_user(ranks: npt.NDArray[np.int64]) -> dict[str, PerUser]:
    """Metrics of each user from the 0-based rank of their held-out item, (users,) int64."""
    hit = ranks < CUTOFF
    return {
        f"recall@{CUTOFF}": hit.astype(np.float64),
        f"ndcg@{CUTOFF}": np.where(hit, 1.0 / np.log2(ranks + 2.0), 0.0),
        f"map@{CUTOFF}": np.where(hit, 1.0 / (ranks + 1.0), 0.0),
    }


def mean_metrics(per_user: Mapping[str, PerUser]) -> dict[str, float]:
    """Mean of each metric over users; 0 where there is no user."""
    return {name: float(values.mean()) if len(values) else 0.0 for name, values in per_user.items()}


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap_mean(values: PerUser, *, seed: int = 0) -> Interval:
    """Mean of (users,) values with its interval, by resampling users `BOOTSTRAP_DRAWS` times.

    Given differences between two models on the same users, this is the paired bootstrap. Raises ValueError without
    users.
    """
    if len(values) == 0:
        raise ValueError("no user to resample")
    generator = np.random.default_rng(seed)
    draws = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(BOOTSTRAP_DRAWS)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))

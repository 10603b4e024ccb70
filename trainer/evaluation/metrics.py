"""Accuracy metrics of each user from the ranks of their held-out items; bootstrap over users.

Definitions, where k is the cutoff, n the number of the user's held-out items, and a hit a held-out item in the top k:

| name        | value for a user |
| ----------- | ---------------- |
| precision@k | hits / k |
| recall@k    | hits / n |
| hr@k        | 1 with at least one hit, otherwise 0 |
| map@k       | sum of precision at each hit / min(k, n) |
| mrr@k       | 1 / position of the first hit, 0 without a hit |
| ndcg@k      | DCG of the hits / DCG of min(k, n) hits at the top, gain 1, discount log2(position + 1) |

Positions count from 1.

With one held-out item recall is the hit rate, and map equals mrr. See docs/decisions/0020 on the divisor of map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PerUser = npt.NDArray[np.float64]
"""(users,) float64, a metric of each user."""

CUTOFF = 10
CUTOFFS = (5, 10, 20, 50)
ACCURACY_METRICS = ("precision", "recall", "hr", "map", "mrr", "ndcg")
HELD_OUT_METRICS = (f"recall@{CUTOFF}", f"ndcg@{CUTOFF}", f"map@{CUTOFF}")
"""Metrics of users with one held-out item; selection, manifest and registry report them."""
MAP_DEFINITION = (
    f"map@{CUTOFF} is the mean over users of AP@{CUTOFF}: the sum of precision at each hit among the first {CUTOFF}, "
    f"divided by min({CUTOFF}, the user's held-out items)."
)
"""Printed beside tables: another divisor gives the same lists another figure."""
BOOTSTRAP_DRAWS = 1_000
_RESAMPLED_AT_ONCE = 1 << 22


def ranking_metrics(
    ranks: npt.NDArray[np.int64], target_offsets: npt.NDArray[np.int64], cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, PerUser]:
    """All accuracy metrics of each user at each cutoff, named "ndcg@10".

    `ranks` is (targets,) int64, 0-based, distinct within each user; `target_offsets` is (users + 1,) int64: user u has
    the ranks `ranks[target_offsets[u] : target_offsets[u + 1]]`. Raises ValueError for a user without a target.
    """
    counts = np.diff(target_offsets)
    if (counts < 1).any():
        raise ValueError("every user needs at least one target")
    user = np.repeat(np.arange(len(counts)), counts)
    ranks = ranks[np.lexsort((ranks, user))]  # ascending within each user
    targets_above = np.arange(len(ranks)) - np.repeat(target_offsets[:-1], counts)
    precision_at_hit = (targets_above + 1.0) / (ranks + 1.0)
    gain = 1.0 / np.log2(ranks + 2.0)
    ideal = np.cumsum(1.0 / np.log2(np.arange(max(cutoffs)) + 2.0))
    first = ranks[target_offsets[:-1]]
    metrics = {}
    for cutoff in cutoffs:
        hit = ranks < cutoff
        hits = np.bincount(user[hit], minlength=len(counts)).astype(np.float64)
        most_hits = np.minimum(cutoff, counts)
        metrics[f"precision@{cutoff}"] = hits / cutoff
        metrics[f"recall@{cutoff}"] = hits / counts
        metrics[f"hr@{cutoff}"] = (hits > 0).astype(np.float64)
        metrics[f"map@{cutoff}"] = np.bincount(user[hit], precision_at_hit[hit], len(counts)) / most_hits
        metrics[f"mrr@{cutoff}"] = np.where(first < cutoff, 1.0 / (first + 1.0), 0.0)
        metrics[f"ndcg@{cutoff}"] = np.bincount(user[hit], gain[hit], len(counts)) / ideal[most_hits - 1]
    return metrics


def metrics_per_user(ranks: npt.NDArray[np.int64]) -> dict[str, PerUser]:
    """HELD_OUT_METRICS of users with one held-out item each, from the items' 0-based ranks, (users,) int64."""
    metrics = ranking_metrics(ranks, np.arange(len(ranks) + 1), (CUTOFF,))
    return {name: metrics[name] for name in HELD_OUT_METRICS}


def mean_metrics(per_user: Mapping[str, PerUser], weights: npt.NDArray[np.float32] | None = None) -> dict[str, float]:
    """Mean of each metric over users, weighted by `weights`, (users,) float32; 0 without users."""
    return {
        name: float(np.average(values, weights=weights)) if len(values) else 0.0 for name, values in per_user.items()
    }


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap_intervals(values: npt.NDArray[np.float64], *, seed: int = 0) -> list[Interval]:
    """Mean of each column of (users, columns) float64 with its interval, by resampling users `BOOTSTRAP_DRAWS` times.

    One resample serves all columns, so differences of columns are paired. The percentile bootstrap (Efron 1979). Raises
    ValueError without users.
    """
    num_users = len(values)
    if num_users == 0:
        raise ValueError("no user to resample")
    generator = np.random.default_rng(seed)
    means = np.empty((BOOTSTRAP_DRAWS, values.shape[1]))
    batch = max(1, _RESAMPLED_AT_ONCE // num_users)
    for start in range(0, BOOTSTRAP_DRAWS, batch):
        draws = means[start : start + batch]
        # Counts how often each user was drawn: one matrix product then gives the means of all columns.
        times_drawn = np.empty((len(draws), num_users))
        for draw in times_drawn:
            draw[:] = np.bincount(generator.integers(0, num_users, num_users), minlength=num_users)
        draws[:] = times_drawn @ values / num_users
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return [Interval(*map(float, column)) for column in zip(values.mean(axis=0), low, high, strict=True)]


def bootstrap_mean(values: PerUser, *, seed: int = 0) -> Interval:
    """Mean of (users,) values with its interval; see `bootstrap_intervals`.

    Given differences between two models on the same users, this is the paired bootstrap. Raises ValueError without
    users.
    """
    return bootstrap_intervals(values[:, None], seed=seed)[0]

"""Distances that arise by chance between two samples of one window: a distance has to exceed them to mean drift.

Rows of the same user resemble each other, so a test that assumes independent rows finds drift between any two samples.
Instead, the users of the reference are split at random, repeatedly, in the proportion of the two windows.
See docs/decisions/0048-drift.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.drift.tables import Table

NUM_SPLITS: Final = 20
_DEVIATIONS: Final = 4.0
"""Standard deviations of a limit above the mean of the splits. Windows are larger than the two parts of one window, so
distances by chance rarely come close."""


def splits(reference: Table, num_recent_users: int, *, seed: int) -> Iterator[tuple[Table, Table]]:
    """NUM_SPLITS random splits of the reference by user into two tables."""
    users = np.unique(reference.users)
    share = len(users) / (len(users) + num_recent_users)
    cut = min(max(round(len(users) * share), 1), len(users) - 1)
    generator = np.random.default_rng(seed)
    for _ in range(NUM_SPLITS):
        order = generator.permutation(users)
        yield reference.rows_of(order[:cut]), reference.rows_of(order[cut:])


def noise_limits(
    reference: Table, num_recent_users: int, distances: Callable[[Table, Table], dict[str, float]], *, seed: int
) -> dict[str, float]:
    """By column, a distance that chance alone rarely reaches."""
    split_distances = [distances(*tables) for tables in splits(reference, num_recent_users, seed=seed)]
    return {name: _limit(np.array([found[name] for found in split_distances])) for name in split_distances[0]}


def _limit(distances: npt.NDArray[np.float64]) -> float:
    """The limit from the distances of the splits, without NaN, which means that a table had no values in the column."""
    known = distances[np.isfinite(distances)]
    return float(known.mean() + _DEVIATIONS * known.std()) if len(known) else 0.0

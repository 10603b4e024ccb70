"""How far apart two samples of the same lie by chance: what a distance has to exceed before it means anything.

The rows of one user resemble each other, so that tests that take rows for independent find drift in any two samples.
Here the users of the reference are split at random, in the proportion of the two windows, again and again.
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
"""Above the mean of the splits. Windows are larger than the halves of one, so that chance rarely comes near."""


def splits(reference: Table, num_recent_users: int, *, seed: int) -> Iterator[tuple[Table, Table]]:
    """The reference's users in two groups, NUM_SPLITS times."""
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
    """By column, the distance that chance alone hardly reaches."""
    found = [distances(*halves) for halves in splits(reference, num_recent_users, seed=seed)]
    return {name: _limit(np.array([of_split[name] for of_split in found])) for name in found[0]}


def _limit(by_split: npt.NDArray[np.float64]) -> float:
    """NaN, where a half had no value of the column, says nothing."""
    said = by_split[np.isfinite(by_split)]
    return float(said.mean() + _DEVIATIONS * said.std()) if len(said) else 0.0

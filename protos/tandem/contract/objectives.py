"""What becomes of an item once it was chosen: how often it is bought or put into a cart, and what that is worth.

These are rates of items over all users. They say nothing of one user: who wants an item is the ranker's answer, what a
choice of this item is worth the objectives'.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tandem.contract import names

_PRIOR_USERS = 20.0
"""Users with the catalogue's average rates who are added to every item, so that one purchase makes no favourite."""


def log_values(
    event_counts: npt.NDArray[np.uint32], popularity: npt.NDArray[np.int64], weights: Mapping[str, float]
) -> npt.NDArray[np.float32]:
    """(items,) float32: the logarithm of the expected value of a choice of each item, relative to that of an average
    choice.

    `event_counts` is (items, 6), users by the types of their events in the order of names.EVENT_TYPES, `popularity`
    (items,), all users who chose the item; `weights` is the value of each type. All zero if no choice has a value.
    """
    value = np.array([weights.get(name, 0.0) for name in names.EVENT_TYPES])
    num_users = max(float(popularity.sum()), 1.0)
    average = float(event_counts.sum(axis=0) @ value) / num_users
    if average == 0.0:
        return np.zeros(len(popularity), dtype=np.float32)
    values = (event_counts @ value + _PRIOR_USERS * average) / (popularity + _PRIOR_USERS)
    logs: npt.NDArray[np.float32] = np.log(values / average).astype(np.float32)
    return logs

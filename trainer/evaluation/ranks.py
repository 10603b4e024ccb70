"""Full ranking of each user: the ranks of the targets and the best items, from the scores of all items.

An item with the score NO_CANDIDATE is no candidate. Equal scores are ordered at random, independently for each user, so
a scorer gains nothing from giving many items the same score. The order depends only on the seed, the user's position
and the item: it is the same for every scorer, in ranks and in lists, and in batches of any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import Rows

NO_CANDIDATE: Final = np.float32(np.nan)
"""NaN: not above, below or equal to any score, and sorted after all scores."""


@dataclass(frozen=True)
class TieOrder:
    """Order of each user's items with equal scores: the item with the higher key comes first.

    A key is the product of the item's and the user's random number, modulo 2 ** 64. The numbers of users are odd, so
    items with different numbers have different keys. Drawing keys for each user would cost more than the ranking.
    """

    item_numbers: npt.NDArray[np.uint64]
    """(items,) uint64."""
    user_numbers: npt.NDArray[np.uint64]
    """(users of the split,) uint64, odd."""

    @classmethod
    def drawn(cls, num_users: int, num_items: int, seed: int) -> TieOrder:
        """Draws the numbers of all items and of a split's users, in the order of the split."""
        generator = np.random.default_rng(seed)
        item_numbers = generator.integers(0, 1 << 64, num_items, dtype=np.uint64)
        user_numbers = generator.integers(0, 1 << 64, num_users, dtype=np.uint64)
        return cls(item_numbers, user_numbers | np.uint64(1))

    def keys_of_user(self, position: int) -> npt.NDArray[np.uint64]:
        """(items,) uint64, keys of all items for the user at `position` of the split."""
        keys: npt.NDArray[np.uint64] = self.item_numbers * self.user_numbers[position]
        return keys


def ranks_of_targets(
    scores: npt.NDArray[np.float32],
    target_offsets: npt.NDArray[np.int64],
    target_rows: Rows,
    order: TieOrder,
    first_user: int = 0,
) -> npt.NDArray[np.int64]:
    """0-based ranks of the users' targets, (targets,) int64, from the users' scores, (users, items) float32.

    The targets of user u are `target_rows[target_offsets[u] : target_offsets[u + 1]]`, where the offsets, (users + 1,)
    int64, begin with 0. A rank is the number of items ahead of the target. Targets that are not candidates rank after
    all candidates, in their own order. `first_user` is the position of the first of these users in `order`.
    """
    user_of_target = np.repeat(np.arange(len(scores)), np.diff(target_offsets))
    target_scores = scores[user_of_target, target_rows]
    ranks, not_below = np.empty(len(target_rows), dtype=np.int64), np.empty(len(target_rows), dtype=np.int64)
    for user, user_scores in enumerate(scores):
        own = slice(target_offsets[user], target_offsets[user + 1])
        ranks[own], not_below[own] = _num_above(user_scores, target_scores[own])
    is_candidate = ~np.isnan(target_scores)
    is_tied = is_candidate & (not_below - ranks > 1)
    for user in np.unique(user_of_target[is_tied]):
        keys = order.keys_of_user(first_user + user)
        for target in target_offsets[user] + np.flatnonzero(is_tied[target_offsets[user] : target_offsets[user + 1]]):
            in_front = (scores[user] == target_scores[target]) & (keys > keys[target_rows[target]])
            ranks[target] += np.count_nonzero(in_front)
    for user in np.unique(user_of_target[~is_candidate]):
        absent = target_offsets[user] + np.flatnonzero(~is_candidate[target_offsets[user] : target_offsets[user + 1]])
        ranks[absent] = np.count_nonzero(~np.isnan(scores[user])) + np.arange(len(absent))
    return ranks


def best_items(scores: npt.NDArray[np.float32], keys: npt.NDArray[np.uint64], count: int) -> Rows:
    """Rows of a user's best items, (at most `count`,) int64, best first.

    `scores` is (items,); `keys`, (items,), orders equal scores.
    """
    num_best = min(count, int(np.count_nonzero(scores > -np.inf)))
    if num_best == 0:
        return np.empty(0, dtype=np.int64)
    weakest = len(scores) - np.count_nonzero(np.isnan(scores)) - num_best
    # Longer than `num_best` where the last scores tie.
    best = np.flatnonzero(scores >= np.partition(scores, weakest)[weakest])
    return best[np.lexsort((keys[best], scores[best]))[::-1][:num_best]]


def _num_above(
    scores: npt.NDArray[np.float32], target_scores: npt.NDArray[np.float32]
) -> tuple[np.int64 | npt.NDArray[np.int64], np.int64 | npt.NDArray[np.int64]]:
    """Numbers of a user's (items,) scores above each of the (targets,) scores, and of those not below it."""
    if len(target_scores) == 1:  # two passes over the items are faster than a sort
        return np.count_nonzero(scores > target_scores), np.count_nonzero(scores >= target_scores)
    ascending = np.sort(scores)
    num_candidates = np.count_nonzero(~np.isnan(scores))
    not_above = np.searchsorted(ascending, target_scores, "right")
    below = np.searchsorted(ascending, target_scores, "left")
    return num_candidates - not_above, num_candidates - below

"""Metrics of recommended lists beyond accuracy: coverage, concentration, novelty, diversity.

Lists are (users, n) int64 item rows, best first, with MISSING_ROW after the last item.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import MISSING_ROW, Rows
from trainer.dataset.inequality import gini_of_counts
from trainer.evaluation.metrics import PerUser

_BATCH_USERS = 4_096


def coverage(lists: Rows, num_items: int) -> float:
    """Share of the catalogue's items that are in at least one list, 0 to 1."""
    return float((_times_recommended(lists, num_items) > 0).mean()) if num_items else 0.0


def gini(lists: Rows, num_items: int) -> float:
    """Gini coefficient of the number of lists that hold each item of the catalogue; 0 if all lists are empty."""
    return gini_of_counts(_times_recommended(lists, num_items))


def novelty(lists: Rows, popularity: npt.NDArray[np.int64], num_users: int) -> PerUser:
    """Mean self-information of each user's recommended items in bits, log2(users / users who chose the item).

    `popularity` is (items,) int64: the number of users, out of `num_users`, who chose each item; an item that no user
    chose counts as chosen once. 0 for an empty list. Zhou et al. 2010, "Solving the apparent diversity-accuracy
    dilemma".
    """
    bits = np.log2(max(num_users, 1) / np.maximum(popularity, 1))
    present = lists != MISSING_ROW
    total = np.where(present, bits[np.where(present, lists, 0)], 0.0).sum(axis=1)
    return np.asarray(total / np.maximum(present.sum(axis=1), 1), dtype=np.float64)


def diversity(lists: Rows, content_vectors: npt.NDArray[np.floating]) -> PerUser:
    """1 - mean cosine of all item pairs in each user's list; 0 for a list of fewer than two items.

    `content_vectors` is (items, content_dim). An item without content (a zero vector) has cosine 0 with every item.
    Ziegler et al. 2005, intra-list similarity.
    """
    values = np.empty(len(lists))
    for start in range(0, len(lists), _BATCH_USERS):
        rows = lists[start : start + _BATCH_USERS]
        present = rows != MISSING_ROW
        vectors = content_vectors[np.where(present, rows, 0)].astype(np.float64)  # (users, n, content_dim)
        norms = np.linalg.norm(vectors, axis=2, keepdims=True)
        vectors *= present[:, :, None] / np.where(norms > 0, norms, 1.0)
        # The squared sum holds every pair twice, and each vector with itself: no loop over pairs is needed.
        pairs = (vectors.sum(axis=1) ** 2).sum(axis=1) - (vectors**2).sum(axis=(1, 2))
        length = present.sum(axis=1)
        num_pairs = length * (length - 1)
        values[start : start + len(rows)] = np.where(num_pairs > 0, 1.0 - pairs / np.maximum(num_pairs, 1), 0.0)
    return values


def _times_recommended(lists: Rows, num_items: int) -> npt.NDArray[np.int64]:
    return np.bincount(lists[lists != MISSING_ROW], minlength=num_items)

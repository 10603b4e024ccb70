"""The candidates of a request under the default policy, in serving and in offline evaluation of a ranker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import MISSING_ROW, Rows

TWO_TOWER_CANDIDATES: Final = 100
"""Number of items nearest to the user vector."""
CONTENT_NEIGHBOUR_CANDIDATES: Final = 30
"""Number of content neighbours of the newest items in the history."""
ITEM_ITEM_CANDIDATES: Final = 50
"""Number of candidates of the item-item source: neighbours of the newest items in the history, or the items with the
source's highest scores."""
SEQUENTIAL_CANDIDATES: Final = 30
"""The same of the sequential source."""
CONTENT_NEIGHBOURS_OF: Final = 3
"""Number of newest items whose content neighbours are proposed."""
ITEM_ITEM_NEIGHBOURS_OF: Final = 5
"""Number of newest items whose neighbours the item-item and the sequential source propose."""


def neighbour_rows(neighbours: npt.NDArray[np.int32], history_rows: Rows, most: int, *, num_events: int) -> Rows:
    """Neighbours of each user's newest `num_events` items: first neighbours first, then second ones.

    `neighbours` is (items, n) int32 as in a bundle; `history_rows` is (users, events) int64, oldest first. Returns
    (users, num_rows) int64 with num_rows >= `most` if the neighbours suffice, padded with MISSING_ROW; rows may repeat.
    The first columns do not depend on `most`: a user who needs fewer rows takes a prefix.
    """
    recent = history_rows[:, : -num_events - 1 : -1]  # newest first
    each = -(-most // recent.shape[1])
    rows = neighbours[np.maximum(recent, 0), :each].astype(np.int64)  # (users, recent, each)
    rows[recent == MISSING_ROW] = MISSING_ROW
    return rows.transpose(0, 2, 1).reshape(len(history_rows), -1)


def best_rows(scores: npt.NDArray[np.float32], left_out: Iterable[Rows], most: int) -> Rows:
    """Rows of each user's `most` highest scores above 0, best first; of equal scores, the lower row is first.

    `scores` is (users, items) float32; `left_out`, (n,) int64 for each user, are rows to leave out, and may hold
    MISSING_ROW. Returns (users, most) int64, padded with MISSING_ROW. The first columns do not depend on `most`.
    """
    found = np.full((len(scores), most), MISSING_ROW, dtype=np.int64)
    for user, (user_scores, rows) in enumerate(zip(scores, left_out, strict=True)):
        eligible = user_scores.copy()
        eligible[rows[rows != MISSING_ROW]] = 0.0
        best = np.flatnonzero(eligible > 0.0)
        if len(best) > most:
            least = np.partition(eligible[best], len(best) - most)[len(best) - most]
            best = best[eligible[best] >= least]
        best = best[np.argsort(-eligible[best], kind="stable")][:most]
        found[user, : len(best)] = best
    return found

"""The item-item source: each item in a history adds to the scores of its neighbours, in training and serving alike.

It learns pairs of items from co-occurrence alone, and gets more out of small or sparse data than two towers do. The two
err on different users, so their blend is better than either (docs/decisions/0031-item-item-source.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.store import MAX_RECENT_EVENTS
from tandem.contract.vocabulary import MISSING_ROW, Rows

_NEGLIGIBLE: Final = 0.01
"""Events are ignored once their weight has decayed to this share of the newest event's."""


@dataclass(frozen=True)
class ItemItem:
    """For each item, the items whose scores it raises most."""

    rows: npt.NDArray[np.int32]
    """(items, neighbours) int32, highest weight first, padded with -1."""
    weights: npt.NDArray[np.float16]
    """(items, neighbours) float16, what the item adds to the neighbour's score; 0 for padding."""


def num_events_read(decay_events: float) -> int:
    """Number of newest events with a weight that is not negligible, at most as many as the online store keeps."""
    return min(int(np.ceil(-np.log(_NEGLIGIBLE) * decay_events)), MAX_RECENT_EVENTS)


def item_item_scores(
    model: ItemItem, history_rows: Rows, decay_events: float, rows: Rows | None = None
) -> npt.NDArray[np.float32]:
    """Scores of items for users: the sum over the history of the item's weight times exp(-age / decay_events).

    `history_rows` is (users, events) int64, oldest first, the newest event in the last column, MISSING_ROW where there
    is no event; an event's age is the number of newer ones. Returns (users, candidates) float32 for the items `rows`,
    (users, candidates) int64, or (users, items) for all of them.
    """
    num_items = len(model.rows)
    scores = np.empty((len(history_rows), num_items if rows is None else rows.shape[1]), dtype=np.float32)
    num_events = min(history_rows.shape[1], num_events_read(decay_events))
    newest = history_rows[:, history_rows.shape[1] - num_events :]
    decay = np.exp(-np.arange(num_events - 1, -1, -1) / decay_events).astype(np.float32)
    for user, events in enumerate(newest):
        present = events != MISSING_ROW
        known = events[present]
        weights = model.weights[known].astype(np.float32) * decay[present, None]
        # Padding counts for row 0, with weight 0.
        neighbours = np.maximum(model.rows[known], 0)
        item_scores = np.bincount(neighbours.ravel(), weights=weights.ravel(), minlength=num_items)
        scores[user] = item_scores if rows is None else item_scores[rows[user]]
    return scores

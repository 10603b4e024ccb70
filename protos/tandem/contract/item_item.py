"""The sources that know pairs of items: each item in a history adds to the scores of its neighbours, in training and
serving alike.

The item-item source learns which items go together, the sequential source which item follows which. Both get more out
of small or sparse data than two towers do, and err on different users, so a blend is better than each of them
(docs/decisions/0031-item-item-source.md, docs/decisions/0084-sequential-source.md).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    return min(_num_weighty_events(decay_events), MAX_RECENT_EVENTS)


def reads_whole_history(decay_events: float) -> bool:
    """Whether events before those that the online store keeps still have a weight that is not negligible."""
    return _num_weighty_events(decay_events) > MAX_RECENT_EVENTS


def _num_weighty_events(decay_events: float) -> int:
    return int(np.ceil(-np.log(_NEGLIGIBLE) * decay_events))


def item_item_scores(
    model: ItemItem,
    history_rows: Rows,
    decay_events: float,
    rows: Rows | None = None,
    *,
    older_rows: Sequence[Rows] = (),
) -> npt.NDArray[np.float32]:
    """Scores of items for users: the sum over the history of the item's weight times exp(-age / decay_events).

    `history_rows` is (users, events) int64, oldest first, the newest event in the last column, MISSING_ROW where there
    is no event; an event's age is the number of newer ones. `older_rows`, (n,) int64 for each user or nothing at all,
    are items chosen before these events: they weigh as the oldest event that the online store can keep. Returns
    (users, candidates) float32 for the items `rows`, (users, candidates) int64, or (users, items) for all of them.
    """
    num_items = len(model.rows)
    scores = np.empty((len(history_rows), num_items if rows is None else rows.shape[1]), dtype=np.float32)
    num_events = min(history_rows.shape[1], num_events_read(decay_events))
    newest = history_rows[:, history_rows.shape[1] - num_events :]
    decay = np.exp(-np.arange(num_events - 1, -1, -1) / decay_events).astype(np.float32)
    oldest = np.float32(np.exp(-(MAX_RECENT_EVENTS - 1) / decay_events))
    # One user after the other: the arrays of a whole batch would push all else out of the processor's cache.
    for user, events in enumerate(newest):
        present = events != MISSING_ROW
        items, item_weights = events[present], decay[present]
        if older_rows and len(older_rows[user]):
            items = np.concatenate([items, older_rows[user]])
            item_weights = np.concatenate([item_weights, np.full(len(older_rows[user]), oldest)])
        weights = model.weights[items].astype(np.float32)
        weights *= item_weights[:, None]
        # Padding counts for row 0, with weight 0.
        neighbours = np.maximum(model.rows[items], 0)
        sums = np.bincount(neighbours.ravel(), weights=weights.ravel(), minlength=num_items)
        scores[user] = sums if rows is None else sums[rows[user]]
    return scores

"""Search of a large live catalogue: the bundle's index for most of its items, and exact scores of the live ones.

A small catalogue is scored in full, live items included: see `ExactSearch.with_live`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.bitmap import rows_in
from inference_server.model.catalogue.live_items import LiveItems
from inference_server.model.engine.index import ItemIndex
from inference_server.model.engine.search import Allowed, Found
from tandem.contract.vocabulary import MISSING_ROW, Rows

_Scores = npt.NDArray[np.float32]


class LiveSearch:
    """Searches an index and the live items, and merges the results. Safe to call from several threads."""

    def __init__(self, index: ItemIndex, live: LiveItems) -> None:
        """`index` is the index of the bundle that `live` changes."""
        self._index = index.hiding(live.hidden_from_bundle, num_rows=live.num_items)
        searched = live.searched
        self._rows = live.rows[searched]
        self._by_dim = np.ascontiguousarray(live.vectors[searched].T)

    def nearest(
        self, vectors: npt.NDArray[np.float32], num_items: int, allowed: list[Allowed], *, exhaustive: bool = False
    ) -> Found:
        """See `ItemSearch.nearest`."""
        found = self._index.nearest(vectors, num_items, allowed, exhaustive=exhaustive)
        if not len(self._rows):
            return found
        scores = vectors @ self._by_dim  # (users, live items)
        self._forbid(scores, allowed)
        return _merged(found, self._rows, scores, num_items)

    def _forbid(self, scores: _Scores, allowed: list[Allowed]) -> None:
        """Sets the scores of live items that a user may not be shown to -inf, in place."""
        for user_scores, user_allowed in zip(scores, allowed, strict=True):
            if user_allowed.mask is not None:
                user_scores[~rows_in(user_allowed.mask.bitmap, self._rows)] = -np.inf
        # One look-up for the whole batch: a look-up for each user would take as long as the rest of this search.
        excluded_by_user = [user_allowed.excluded for user_allowed in allowed]
        excluded = np.concatenate(excluded_by_user)
        columns = np.minimum(np.searchsorted(self._rows, excluded), len(self._rows) - 1)
        is_live = self._rows[columns] == excluded
        if is_live.any():
            users = np.repeat(np.arange(len(allowed)), list(map(len, excluded_by_user)))
            scores[users[is_live], columns[is_live]] = -np.inf


def _merged(found: Found, rows: Rows, scores: _Scores, num_items: int) -> Found:
    """The best `num_items` of `found` and of live items: `rows` is (n,) int64, `scores` is (users, n) float32,
    -inf for a forbidden item."""
    # Only a live item that is better than a user's last found item can enter the list: mostly a few of thousands.
    is_full = found.scores.shape[1] == num_items
    better = scores > (found.scores[:, -1:] if is_full else np.float32(-np.inf))
    columns = np.flatnonzero(better.any(axis=0))
    if not len(columns):
        return found
    all_scores = np.concatenate([found.scores, scores[:, columns]], axis=1)
    all_rows = np.concatenate([found.rows, np.broadcast_to(rows[columns], (len(scores), len(columns)))], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :num_items]
    best_scores = np.take_along_axis(all_scores, order, axis=1)
    best_rows = np.take_along_axis(all_rows, order, axis=1)
    best_rows[np.isneginf(best_scores)] = MISSING_ROW
    return Found(best_rows, best_scores)

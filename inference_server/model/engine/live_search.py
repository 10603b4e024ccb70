"""Search of a large catalogue with its live items: the bundle's index, and the live vectors scored in full.

A catalogue that is small enough is scored in full anyway, live items among the others: `ExactSearch.with_live`.
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
    """An index beside which live items are searched. Safe to call from several threads."""

    def __init__(self, index: ItemIndex, live: LiveItems) -> None:
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
        """Sets the scores of live items that a user may not be shown to -inf."""
        for of_user, one in zip(scores, allowed, strict=True):
            if one.mask is not None:
                of_user[~rows_in(one.mask.bitmap, self._rows)] = -np.inf
        # One look-up for the whole batch: for each user alone it would take as long as the rest of this search.
        excluded = np.concatenate([one.excluded for one in allowed])
        places = np.minimum(np.searchsorted(self._rows, excluded), len(self._rows) - 1)
        held = self._rows[places] == excluded
        if held.any():
            users = np.repeat(np.arange(len(allowed)), [len(one.excluded) for one in allowed])
            scores[users[held], places[held]] = -np.inf


def _merged(found: Found, rows: Rows, scores: _Scores, num_items: int) -> Found:
    """The best of what was found and of further items: `rows` is (n,) int64, `scores` (users, n), -inf: forbidden."""
    # Only what is better than the last one found can come among them, mostly a few of thousands.
    is_full = found.scores.shape[1] == num_items
    better = scores > (found.scores[:, -1:] if is_full else np.float32(-np.inf))
    columns = np.flatnonzero(better.any(axis=0))
    if not len(columns):
        return found
    every_score = np.concatenate([found.scores, scores[:, columns]], axis=1)
    every_row = np.concatenate([found.rows, np.broadcast_to(rows[columns], (len(scores), len(columns)))], axis=1)
    order = np.argsort(-every_score, axis=1, kind="stable")[:, :num_items]
    best_scores = np.take_along_axis(every_score, order, axis=1)
    best_rows = np.take_along_axis(every_row, order, axis=1)
    best_rows[np.isneginf(best_scores)] = MISSING_ROW
    return Found(best_rows, best_scores)

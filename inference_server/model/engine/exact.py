"""Exact search of a small catalogue: one matrix product scores all items for a batch of users."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.live_items import LiveItems
from inference_server.model.engine.search import Allowed, Found
from tandem.contract.vocabulary import MISSING_ROW, NO_ROWS, Rows


class ExactSearch:
    """Scores all items. Safe to call from several threads."""

    def __init__(self, by_dim: npt.NDArray[np.float32], dead: Rows = NO_ROWS) -> None:
        """`by_dim` is (dim, items) float32, C-contiguous: the transposed item vectors. `dead` is (d,) int64: rows that
        are never found."""
        self._by_dim = by_dim
        self._dead = dead

    @classmethod
    def from_vectors(cls, item_vectors: npt.NDArray[np.float32]) -> ExactSearch:
        """A search of items by their vectors, (items, dim) float32, which are copied."""
        return cls(np.ascontiguousarray(item_vectors.T))

    def with_live(self, live: LiveItems) -> ExactSearch:
        """A search of the live catalogue: the items of this search, which are the bundle's, and the live items."""
        by_dim = np.empty((len(self._by_dim), live.num_items), dtype=np.float32)
        by_dim[:, : live.num_bundle_items] = self._by_dim
        by_dim[:, live.rows] = live.vectors.T
        return ExactSearch(by_dim, live.dead)

    def nearest(
        self,
        vectors: npt.NDArray[np.float32],
        num_items: int,
        allowed: list[Allowed],
        *,
        exhaustive: bool = False,  # noqa: ARG002 - it always is
    ) -> Found:
        """See `ItemSearch.nearest`."""
        scores = vectors @ self._by_dim  # (users, items)
        for user_scores, user_allowed in zip(scores, allowed, strict=True):
            if user_allowed.mask is not None:
                passes = np.unpackbits(user_allowed.mask.bitmap, count=len(user_scores), bitorder="little")
                np.copyto(user_scores, -np.inf, where=passes == 0)
            user_scores[user_allowed.excluded] = -np.inf
        if len(self._dead):
            scores[:, self._dead] = -np.inf
        num_items = min(num_items, scores.shape[1])
        if num_items < scores.shape[1]:
            rows = np.argpartition(scores, scores.shape[1] - num_items, axis=1)[:, -num_items:]
        else:
            rows = np.tile(np.arange(num_items), (len(scores), 1))
        users = np.arange(len(scores))[:, None]
        found = scores[users, rows]
        order = np.argsort(-found, axis=1)
        rows, found = rows[users, order], found[users, order]
        scores[users, rows] = -np.inf
        rows[np.isneginf(found)] = MISSING_ROW
        return Found(rows, found, scores)

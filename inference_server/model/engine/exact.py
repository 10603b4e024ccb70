"""Exact search of a small catalogue: every item is scored, for a batch of users in one matrix product."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.live_items import LiveItems
from inference_server.model.engine.search import Allowed, Found
from tandem.contract.vocabulary import MISSING_ROW, NO_ROWS


class ExactSearch:
    """Scores all items. Safe to call from several threads."""

    def __init__(self, item_vectors: npt.NDArray[np.float32]) -> None:
        """`item_vectors` is (items, dim) float32; a transposed copy of it is kept."""
        self._by_dim = np.ascontiguousarray(item_vectors.T)
        self._dead = NO_ROWS

    def with_live(self, live: LiveItems) -> ExactSearch:
        """A search of the live items too, which finds no dead ones. Copies the vectors."""
        search = ExactSearch(np.empty((0, len(self._by_dim)), dtype=np.float32))
        search._by_dim = np.empty((len(self._by_dim), live.num_items), dtype=np.float32)
        search._by_dim[:, : live.num_bundle_items] = self._by_dim
        search._by_dim[:, live.rows] = live.vectors.T
        search._dead = live.dead
        return search

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
        for of_user, one in zip(scores, allowed, strict=True):
            if one.mask is not None:
                passes = np.unpackbits(one.mask.bitmap, count=len(of_user), bitorder="little")
                np.copyto(of_user, -np.inf, where=passes == 0)
            of_user[one.excluded] = -np.inf
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

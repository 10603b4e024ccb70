"""The strongest weights of each item: what a bundle keeps of a matrix between items."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import sparse

from tandem.contract.item_item import ItemItem
from tandem.contract.vocabulary import MISSING_ROW
from trainer.models.ease import LinearItems

_BATCH_ITEMS = 1_024


def strongest(learned: LinearItems, num_neighbours: int) -> ItemItem:
    """The `num_neighbours` weights of each item with the highest absolute values, highest weight first."""
    width = min(num_neighbours, len(learned.items))
    kept = _nothing(learned.num_items, width)
    for start in range(0, len(learned.items), _BATCH_ITEMS):
        batch = slice(start, start + _BATCH_ITEMS)
        item_weights = learned.weights[batch]
        best = np.argpartition(-np.abs(item_weights), width - 1, axis=1)[:, :width]
        weights = np.take_along_axis(item_weights, best, axis=1).astype(np.float16)
        order = np.argsort(-weights, axis=1, kind="stable")
        weights = np.take_along_axis(weights, order, axis=1)
        neighbours = learned.items[np.take_along_axis(best, order, axis=1)]
        kept.weights[learned.items[batch]] = weights
        kept.rows[learned.items[batch]] = np.where(weights == 0, MISSING_ROW, neighbours)
    return kept


def strongest_of_ranges(
    ranges: Iterable[tuple[slice, sparse.csr_matrix]], *, num_items: int, num_neighbours: int
) -> ItemItem:
    """The same of sparse rows that hold at most `num_neighbours` entries each, largest first, range by range."""
    kept = _nothing(num_items, min(num_neighbours, num_items))
    for batch, similarities in ranges:
        counts = np.diff(similarities.indptr)
        rows = np.repeat(np.arange(batch.start, batch.stop), counts)
        columns = np.arange(len(rows)) - np.repeat(similarities.indptr[:-1], counts)
        weights = similarities.data.astype(np.float16)
        kept.weights[rows, columns] = weights
        kept.rows[rows, columns] = np.where(weights == 0, MISSING_ROW, similarities.indices)
    return kept


def _nothing(num_items: int, width: int) -> ItemItem:
    shape = (num_items, width)
    return ItemItem(np.full(shape, MISSING_ROW, dtype=np.int32), np.zeros(shape, dtype=np.float16))

"""Item-based nearest neighbours for catalogues of any size: cosine with shrinkage (Sarwar et al., WWW 2001)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import sparse

from trainer.dataset.dataset import Dataset

_BATCH_ITEMS = 1_024
_BATCH_EVENTS = 1 << 20
_NUM_DISTANCES = 10
"""Farthest event that counts as one that follows."""


def similarities_of_items(
    interactions: sparse.csr_matrix, shrinkage: float, num_neighbours: int
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Yields ranges of items with their nearest neighbours, (range, items) CSR.

    The similarity of two items is their product over the users of `interactions`, (users, items), divided by the
    geometric mean of both items' squared lengths plus `shrinkage`.
    """
    by_item = interactions.T.tocsr()
    squares = np.asarray(by_item.multiply(by_item).sum(axis=1)).ravel()
    for start in range(0, by_item.shape[0], _BATCH_ITEMS):
        batch = slice(start, min(start + _BATCH_ITEMS, by_item.shape[0]))
        yield batch, _nearest((by_item[batch] @ interactions).tocsr(), batch, squares, shrinkage, num_neighbours)


def similarities_of_followers(
    dataset: Dataset, decay_events: float, shrinkage: float, num_neighbours: int
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Yields ranges of items with the items that follow them most, (range, items) CSR.

    An item that comes `n` events after another one counts exp(-(n - 1) / decay_events) for the pair, up to
    _NUM_DISTANCES events; the sum is divided by the geometric mean of both items' events plus `shrinkage`.
    """
    num_items = len(dataset.catalogue)
    followers = sparse.csr_matrix((num_items, num_items), dtype=np.float32)
    ends = np.repeat(dataset.offsets[1:], dataset.lengths)
    for start in range(0, len(ends), _BATCH_EVENTS):
        older = np.arange(start, min(start + _BATCH_EVENTS, len(ends)))
        for distance in range(1, _NUM_DISTANCES + 1):
            older = older[older + distance < ends[older]]
            counts = np.full(len(older), np.exp(-(distance - 1) / decay_events), dtype=np.float32)
            pairs = (dataset.item_rows[older], dataset.item_rows[older + distance])
            followers += sparse.coo_matrix((counts, pairs), shape=followers.shape).tocsr()
    events = np.bincount(dataset.item_rows, minlength=num_items)
    for start in range(0, num_items, _BATCH_ITEMS):
        batch = slice(start, min(start + _BATCH_ITEMS, num_items))
        yield batch, _nearest(followers[batch], batch, events, shrinkage, num_neighbours)


def _nearest(
    products: sparse.csr_matrix, batch: slice, squares: npt.NDArray[np.generic], shrinkage: float, num_neighbours: int
) -> sparse.csr_matrix:
    """Similarities of the items of a range to all items, without their own."""
    rows = np.repeat(np.arange(batch.start, batch.stop), np.diff(products.indptr))
    products.data = products.data / (np.sqrt(squares[rows] * squares[products.indices]) + shrinkage)
    products.data[rows == products.indices] = 0.0
    products.eliminate_zeros()
    return largest_of_rows(products, num_neighbours)


def largest_of_rows(matrix: sparse.csr_matrix, k: int) -> sparse.csr_matrix:
    """The k largest entries of each row, largest first; ties go to the lower column."""
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    index_in_row = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr))
    kept = order[index_in_row < k]
    counts = np.minimum(np.diff(matrix.indptr), k)
    return sparse.csr_matrix(
        (matrix.data[kept], matrix.indices[kept], np.concatenate([[0], np.cumsum(counts)])), shape=matrix.shape
    )

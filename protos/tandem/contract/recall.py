"""Recall of a search: how much of the exact nearest items it finds, as training measures and serving checks it.

Compared by score and not by row: among items with equal vectors, which of them a search returns means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import MISSING_ROW, Rows

_RELATIVE_TOLERANCE: Final = 1e-6
"""Of the product of the two lengths: how far float32 inner products that ought to be equal may lie apart."""


def recall_of(
    found: Sequence[Rows] | Rows,
    exact: Rows,
    queries: npt.NDArray[np.float32],
    item_vectors: npt.NDArray[np.float32],
) -> float:
    """Share of the k places that hold an item no worse than the k-th exact one, mean over queries.

    `found` holds rows of each query, in any order, MISSING_ROW where nothing was found; of a row that is there several
    times, one counts. `exact` is (queries, k) int64, the items with the highest inner products of `queries`, (queries,
    dim), and `item_vectors`, (items, dim). Inner products are computed anew, whatever the search made of them.
    """
    hits = 0
    for query, rows, best in zip(queries, found, exact, strict=True):
        distinct = np.unique(rows[rows != MISSING_ROW])
        best_vectors, vectors = item_vectors[best], item_vectors[distinct]
        longest = max(_longest(best_vectors), _longest(vectors))
        tolerance = _RELATIVE_TOLERANCE * float(np.linalg.norm(query)) * longest
        lowest = float((best_vectors @ query).min()) - tolerance
        hits += min(int(np.count_nonzero(vectors @ query >= lowest)), len(best))
    return hits / exact.size


def _longest(vectors: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(vectors, axis=1).max(initial=0.0))

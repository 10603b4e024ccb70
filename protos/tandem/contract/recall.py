"""Recall of a search: the share of the exact nearest items it finds, as training measures and serving checks it.

Items are compared by score, not by row: which of several items with equal vectors a search returns does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import MISSING_ROW, Rows

_RELATIVE_TOLERANCE: Final = 1e-6
"""Tolerated difference of float32 inner products that should be equal, as a share of the product of both lengths."""


def recall_of(
    found: Sequence[Rows] | Rows,
    exact: Rows,
    queries: npt.NDArray[np.float32],
    item_vectors: npt.NDArray[np.float32],
) -> float:
    """Share of the k results that score at least as high as the k-th exact item, mean over queries.

    `found` holds the rows for each query, in any order, MISSING_ROW where nothing was found; repeated rows count once.
    `exact` is (queries, k) int64, the items with the highest inner products of `queries`, (queries,
    dim), and `item_vectors`, (items, dim). Inner products are recomputed here; those of the search are not used.
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

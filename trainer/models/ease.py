"""EASE: the linear item-item model with a closed form (Steck, WWW 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import lapack

_BLOCK = 1_024


@dataclass(frozen=True)
class LinearItems:
    """Weights between items."""

    items: npt.NDArray[np.int64]
    """(known items,) int64, the item rows of the weights; all other items score 0."""
    weights: npt.NDArray[np.float32]
    """(known items, known items) float32: weight i, j is what item i in a history adds to the score of item j."""
    num_items: int

    def history_scores(self, histories: sparse.csr_matrix) -> npt.NDArray[np.float32]:
        """(n, items) -> (n, items) float32."""
        scores = np.zeros((histories.shape[0], self.num_items), dtype=np.float32)
        scores[:, self.items] = histories[:, self.items] @ self.weights
        return scores


def ease_weights(interactions: sparse.csr_matrix, l2: float) -> LinearItems:
    """Inverts the co-occurrence matrix of `interactions`, (users, items).

    In float64, so 12,000 items take about 1.2 GB. `l2` is the regularisation, in interactions.
    """
    items = np.flatnonzero(interactions.getnnz(axis=0))  # items without interactions have rows and columns of zeros
    matrix = interactions[:, items].astype(np.float64)
    gram = np.asfortranarray((matrix.T @ matrix).toarray())
    gram[np.diag_indices_from(gram)] += l2
    weights = _inverse(gram)
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0.0)
    return LinearItems(items, np.ascontiguousarray(weights, dtype=np.float32), interactions.shape[1])


def _inverse(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Inverse of a symmetric positive definite matrix in Fortran order, which is overwritten.

    By Cholesky, which takes half of the operations and of the memory of an inverse by LU.
    """
    factor, failed = lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if failed:
        raise ValueError("not positive definite: l2 must be greater than 0")
    inverse: npt.NDArray[np.float64] = lapack.dpotri(factor, lower=1, overwrite_c=1)[0]
    for first in range(0, len(inverse), _BLOCK):  # LAPACK leaves the upper half as it was
        last = min(first + _BLOCK, len(inverse))
        inverse[first:last, last:] = inverse[last:, first:last].T
        block = inverse[first:last, first:last]
        block[...] = np.tril(block) + np.tril(block, -1).T
    return inverse

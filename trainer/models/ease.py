"""EASE: the linear item-item model with a closed form (Steck, WWW 2019), and its denoising form EDLAE (Steck, NeurIPS
2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import lapack

_BLOCK = 1_024
FLOAT32_FROM_ITEMS: Final = 3_000
"""Number of items from which matrices between items are inverted in float32, in half of the time and memory."""


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


@dataclass(frozen=True)
class CoOccurrence:
    """How often items occur together, from which weights are computed for any regularisation."""

    items: npt.NDArray[np.int64]
    """(known items,) int64, the items with interactions; all others would have rows and columns of zeros."""
    gram: npt.NDArray[np.floating]
    """(known items, known items) of `float_type`, the product of the matrix of interactions with itself."""
    num_items: int

    @classmethod
    def of(cls, interactions: sparse.csr_matrix) -> CoOccurrence:
        """From the matrix of interactions, (users, items)."""
        items = np.flatnonzero(interactions.getnnz(axis=0))
        matrix = interactions[:, items].astype(float_type(len(items)))
        return cls(items, (matrix.T @ matrix).toarray(), interactions.shape[1])

    def weights(self, l2: float, *, dropout: float = 0.0) -> LinearItems:
        """The weights of EASE, or of EDLAE with a dropout.

        `l2` is the regularisation, in interactions. `dropout`, from 0 to below 1, is the share of each history that
        EDLAE hides while it learns, in expectation: it regularises each item by dropout / (1 - dropout) times its
        count.
        """
        gram = self.gram.copy(order="F")
        diagonal = np.diag_indices_from(gram)
        gram[diagonal] += l2 + gram[diagonal] * (dropout / (1.0 - dropout))
        weights = inverse(gram)
        weights /= -np.diag(weights).copy()
        np.fill_diagonal(weights, 0.0)
        return LinearItems(self.items, np.ascontiguousarray(weights, dtype=np.float32), self.num_items)


def ease_weights(interactions: sparse.csr_matrix, l2: float) -> LinearItems:
    """EASE of `interactions`, (users, items); `l2` is the regularisation, in interactions.

    Computed in float32 above FLOAT32_FROM_ITEMS items: 12,000 items then take about 1.2 GB.
    """
    return CoOccurrence.of(interactions).weights(l2)


def float_type(num_items: int) -> type[np.float64] | type[np.float32]:
    """The precision in which matrices between so many items are inverted."""
    return np.float64 if num_items < FLOAT32_FROM_ITEMS else np.float32


def inverse(matrix: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Inverse of a symmetric positive definite matrix, float64 or float32 in Fortran order, which is overwritten.

    By Cholesky, which takes half of the operations and of the memory of an inverse by LU. Raises ValueError if the
    matrix is not positive definite.
    """
    factorise, invert = (lapack.dpotrf, lapack.dpotri) if matrix.dtype == np.float64 else (lapack.spotrf, lapack.spotri)
    factor, failed = factorise(matrix, lower=1, overwrite_a=1)
    if failed:
        raise ValueError("not positive definite: l2 must be greater than 0")
    inverted: npt.NDArray[np.floating] = invert(factor, lower=1, overwrite_c=1)[0]
    for first in range(0, len(inverted), _BLOCK):  # LAPACK leaves the upper half as it was
        last = min(first + _BLOCK, len(inverted))
        inverted[first:last, last:] = inverted[last:, first:last].T
        block = inverted[first:last, first:last]
        block[...] = np.tril(block) + np.tril(block, -1).T
    return inverted

"""Item-based nearest neighbours: cosine over the items' users (Sarwar et al., WWW 2001), with shrinkage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from trainer.baselines.histories import HistoryScorer
from trainer.dataset.dataset import Dataset
from trainer.features.interaction_matrix import interaction_matrix
from trainer.models.item_knn import largest_of_rows


@dataclass(frozen=True, kw_only=True)
class ItemKNN:
    """An item's score is the sum of its similarities to the items of the history that keep it as a neighbour."""

    name: str = "ItemKNN"
    num_neighbours: int = 200
    """Most similar items that each item keeps."""
    shrinkage: float = 10.0
    """Added to the denominator of the cosine: similarities from a small number of users count less."""

    def fit(self, known: Dataset) -> HistoryScorer:
        """Computes the similarities of all item pairs with a common user; keeps each item's nearest neighbours."""
        matrix = interaction_matrix(known)
        similarities = (matrix.T @ matrix).tocsr()
        counts = similarities.diagonal()
        similarities.setdiag(0.0)
        similarities.eliminate_zeros()
        rows = np.repeat(np.arange(len(counts)), np.diff(similarities.indptr))
        similarities.data /= np.sqrt(counts[rows] * counts[similarities.indices]) + np.float32(self.shrinkage)
        neighbours = largest_of_rows(similarities, self.num_neighbours)
        return HistoryScorer(known=known, model=Neighbours(neighbours))


@dataclass(frozen=True)
class Neighbours:
    """Similarities of items to their neighbours."""

    similarities: sparse.csr_matrix
    """(items, items) float32: row i holds the neighbours of item i."""

    def history_scores(self, histories: sparse.csr_matrix) -> npt.NDArray[np.float32]:
        """(n, items) -> (n, items) float32."""
        scores: npt.NDArray[np.float32] = (histories @ self.similarities).toarray()
        return scores

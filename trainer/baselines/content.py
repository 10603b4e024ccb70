"""Items whose texts and categories are similar to those of the user's history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from trainer.baselines.histories import HistoryModel, HistoryScorer
from trainer.dataset.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Content:
    """Scores items by their similarity to the sum of the history; other users' interactions do not count."""

    name: str
    similarities: HistoryModel
    """Given by the items' content, so nothing is fitted."""

    def fit(self, known: Dataset) -> HistoryScorer:
        """Nothing is learned."""
        return HistoryScorer(known=known, model=self.similarities)


@dataclass(frozen=True)
class DenseContent:
    """Inner products of vectors, by FAISS."""

    vectors: npt.NDArray[np.float32]
    """(items, dim) float32 of length 1; zero for items without content."""

    def history_scores(self, histories: sparse.csr_matrix) -> npt.NDArray[np.float32]:
        """(n, items) -> (n, items) float32."""
        # Only this method needs FAISS.
        from trainer.vectors.faiss_index import inner_products

        return inner_products(np.asarray(histories @ self.vectors, dtype=np.float32), self.vectors)


@dataclass(frozen=True)
class SparseContent:
    """Inner products of sparse vectors, without reducing them first."""

    vectors: sparse.csr_matrix
    """(items, terms) float32 of length 1; zero for items without content."""

    def history_scores(self, histories: sparse.csr_matrix) -> npt.NDArray[np.float32]:
        """(n, items) -> (n, items) float32."""
        scores: npt.NDArray[np.float32] = (histories @ self.vectors @ self.vectors.T).toarray()
        return scores

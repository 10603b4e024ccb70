"""iALS: matrix factorisation of implicit feedback by alternating least squares (Hu, Koren and Volinsky, ICDM 2008).

The only module that imports implicit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from threadpoolctl import threadpool_limits

from trainer.baselines.histories import HistoryScorer
from trainer.dataset.dataset import Dataset
from trainer.features.interaction_matrix import interaction_matrix


@dataclass(frozen=True, kw_only=True)
class IALS:
    """User vectors are solved from the weighted histories whenever users are scored."""

    name: str = "iALS"
    num_factors: int = 64
    """Width of user and item vectors."""
    regularization: float = 30.0
    """L2 penalty of the vectors. implicit's own default of 0.01 overfits sparse data."""
    alpha: float = 10.0
    """Confidence of an interaction; a pair without an interaction has 1."""
    num_iterations: int = 15
    """Sweeps over users and items."""
    seed: int = 0
    """Seed of the initial vectors."""

    def fit(self, known: Dataset) -> HistoryScorer:
        """Factorises the binary matrix."""
        # The import takes a second.
        from implicit.cpu.als import AlternatingLeastSquares

        # implicit runs its own threads. BLAS threads would slow them down tenfold, and implicit warns about them.
        with threadpool_limits(1, "blas"):
            als = AlternatingLeastSquares(
                factors=self.num_factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.num_iterations,
                random_state=self.seed,
            )
            als.fit(interaction_matrix(known), show_progress=False)
        return HistoryScorer(known=known, model=Factors(als))


@dataclass(frozen=True)
class Factors:
    """Item vectors, from which user vectors are solved."""

    als: Any
    """A fitted AlternatingLeastSquares."""

    def history_scores(self, histories: sparse.csr_matrix) -> npt.NDArray[np.float32]:
        """(n, items) -> (n, items) float32."""
        with threadpool_limits(1, "blas"):
            users = self.als.recalculate_user(np.arange(histories.shape[0]), histories)
        scores: npt.NDArray[np.float32] = users @ self.als.item_factors.T
        return scores

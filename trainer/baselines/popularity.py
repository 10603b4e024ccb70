"""The most popular items, the same for every user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.baselines.histories import item_counts
from trainer.dataset.dataset import Dataset


@dataclass(frozen=True)
class Popularity:
    """Items by the number of their interactions."""

    name: str = "Popularity"

    def fit(self, known: Dataset) -> PopularityScorer:
        """Counts the interactions of each item."""
        return PopularityScorer(item_counts(known))


@dataclass(frozen=True)
class PopularityScorer:
    """Scores that do not depend on the user."""

    item_scores: npt.NDArray[np.float32]
    """(items,) float32."""

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 -> (n, items) float32."""
        return np.tile(self.item_scores, (len(users), 1))

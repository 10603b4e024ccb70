"""EASE as a baseline: an item's score is a weighted sum over the items of the history."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.baselines.histories import HistoryScorer
from trainer.dataset.dataset import Dataset
from trainer.features.interaction_matrix import interaction_matrix
from trainer.models.ease import LinearItems, ease_weights


@dataclass(frozen=True, kw_only=True)
class Ease:
    """Scores each item by a weighted sum over the history; the weights minimise the squared error."""

    name: str = "EASE"
    l2: float = 200.0
    """Regularisation, in interactions: higher for sparse data."""

    def fit(self, known: Dataset) -> HistoryScorer:
        """Fits the weights, see `weights_of`."""
        return HistoryScorer(known=known, model=self.weights_of(known))

    def weights_of(self, known: Dataset) -> LinearItems:
        """Weights between items, see `ease_weights`."""
        return ease_weights(interaction_matrix(known), self.l2)

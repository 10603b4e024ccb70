"""Weighted sum of several baselines' scores, which are standardised for each user over all items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.baselines.baseline import Baseline
from trainer.dataset.dataset import Dataset
from trainer.scoring.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Hybrid:
    """Baselines with their weights."""

    parts: tuple[tuple[Baseline, float], ...]

    @property
    def name(self) -> str:
        """Name in reports, with the names of the parts."""
        return f"Hybrid {', '.join(baseline.name for baseline, _ in self.parts)}"

    def fit(self, known: Dataset) -> HybridScorer:
        """Fits each part."""
        return HybridScorer([(baseline.fit(known), weight) for baseline, weight in self.parts])


@dataclass(frozen=True)
class HybridScorer:
    """Scorers with their weights; every score must be finite."""

    parts: Sequence[tuple[Scorer, float]]

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 -> (n, items) float32."""
        first, first_weight = self.parts[0]
        total = _standardised(first.scores(users), first_weight)
        for scorer, weight in self.parts[1:]:
            if weight:
                total += _standardised(scorer.scores(users), weight)
        return total


def _standardised(scores: npt.NDArray[np.float32], weight: float) -> npt.NDArray[np.float32]:
    """Scales each row of (n, items) in place to mean 0 and standard deviation `weight`; a row of equal scores to 0."""
    scores -= scores.mean(axis=1, keepdims=True)
    deviations = scores.std(axis=1, keepdims=True)
    scores *= np.float32(weight) / np.where(deviations > 0.0, deviations, np.float32(1.0))
    return scores

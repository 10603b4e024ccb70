"""What most baselines share: a user is nothing but their history, so a score is a function of weighted histories.

It lets a history be weighted anew when it is scored, without learning again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from trainer.dataset.dataset import Dataset
from trainer.features.interaction_matrix import interaction_matrix


class HistoryModel(Protocol):
    """What a baseline has learned, apart from its users."""

    def history_scores(self, histories: sparse.csr_matrix) -> npt.NDArray[np.float32]:
        """(n, items) float32 weights of the items in each history -> (n, items) float32 of its own."""
        ...


@dataclass(frozen=True, kw_only=True)
class HistoryScorer:
    """Scores users by their histories in `known`; who has none is scored by popularity there."""

    known: Dataset
    model: HistoryModel
    recency_tau: float | None = None
    """Histories are weighted by exp(-age / recency_tau), see `interaction_matrix`; None: all events alike."""
    _histories: sparse.csr_matrix = field(init=False, repr=False)
    _popularity: npt.NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_histories", interaction_matrix(self.known, recency_tau=self.recency_tau))
        object.__setattr__(self, "_popularity", item_counts(self.known))

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 -> (n, items) float32."""
        scores = self.model.history_scores(self._histories[users])
        scores[self.known.lengths[users] == 0] = self._popularity
        return scores


class HistoryBaseline(Protocol):
    """A baseline that knows users by their histories alone."""

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    def fit(self, known: Dataset) -> HistoryScorer:
        """Learns from all events of `known`, which count alike."""
        ...


@dataclass(frozen=True)
class WithRecency:
    """A baseline that learned from all events alike, and scores users by what they did last."""

    baseline: HistoryBaseline
    recency_tau: float
    """Events: one that this many newer ones follow counts 1/e of the newest."""

    @property
    def name(self) -> str:
        """Name in reports."""
        return f"{self.baseline.name}+recency"

    def fit(self, known: Dataset) -> HistoryScorer:
        """Fits the baseline."""
        return replace(self.baseline.fit(known), recency_tau=self.recency_tau)


class FitOnce:
    """A baseline that several others share: fitted to the same data again, it gives what it learned the first time.

    It keeps what it fitted last, and the data.
    """

    def __init__(self, baseline: HistoryBaseline) -> None:
        self._baseline = baseline
        self._fitted: HistoryScorer | None = None

    @property
    def name(self) -> str:
        """Name in reports."""
        return self._baseline.name

    def fit(self, known: Dataset) -> HistoryScorer:
        """Fits the baseline, unless `known` is the very object of the last call."""
        if self._fitted is None or self._fitted.known is not known:
            self._fitted = self._baseline.fit(known)
        return self._fitted


def item_counts(known: Dataset) -> npt.NDArray[np.float32]:
    """(items,) float32, interactions with each item."""
    return known.popularity(known.lengths).astype(np.float32)

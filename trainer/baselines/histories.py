"""Shared by most baselines: they know a user only by the history, so scores are a function of weighted histories.

Histories can therefore be weighted differently when they are scored, without another fit.
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
    """The fitted model of a baseline, which holds no users."""

    def history_scores(self, histories: sparse.csr_matrix) -> npt.NDArray[np.float32]:
        """(n, items) float32 weights of the items in each history -> (n, items) float32, a new array."""
        ...


@dataclass(frozen=True, kw_only=True)
class HistoryScorer:
    """Scores users by their histories in `known`; a user without a history gets the items' popularity in `known`."""

    known: Dataset
    model: HistoryModel
    recency_tau: float | None = None
    """Events are weighted by exp(-age / recency_tau), see `interaction_matrix`; None: all events weigh the same."""
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
        """Learns from all events of `known`, with equal weights."""
        ...


@dataclass(frozen=True)
class WithRecency:
    """A baseline that learns from all events alike, and scores users mainly by their newest events."""

    baseline: HistoryBaseline
    recency_tau: float
    """In events: an event with this many newer events after it weighs 1/e of the newest."""

    @property
    def name(self) -> str:
        """Name in reports."""
        return f"{self.baseline.name}+recency"

    def fit(self, known: Dataset) -> HistoryScorer:
        """Fits the baseline."""
        return replace(self.baseline.fit(known), recency_tau=self.recency_tau)


class FitOnce:
    """A baseline that several baselines share: fitting it to the same data again returns the first result.

    It keeps its last result, and with it the data.
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

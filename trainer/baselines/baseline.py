"""The interface of a baseline: it learns from interactions and returns a scorer."""

from __future__ import annotations

from typing import Protocol

from trainer.dataset.dataset import Dataset
from trainer.scoring.scorer import Scorer


class Baseline(Protocol):
    """A method without towers, which the served model has to beat."""

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    def fit(self, known: Dataset) -> Scorer:
        """Learns from all events of `known`; the scorer reads users' histories from there too."""
        ...

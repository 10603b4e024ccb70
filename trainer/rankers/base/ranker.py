"""What a ranker is: trained on frozen towers, measured on validation, exported as one ONNX file of the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy.typing as npt
from numpy import float32

from tandem.contract.features import Tensors
from trainer.compute.onnx_export import ExportedNetwork
from trainer.dataset.dataset import Cut, HoldOut
from trainer.evaluation.metrics import PerUser
from trainer.rankers.base.frozen_towers import FrozenTowers


class FittedRanker(Protocol):
    """A ranker that was trained."""

    def pair_scores(self, tensors: Tensors) -> npt.NDArray[float32]:
        """Scores of (user, candidate) pairs from the tensors RANKER_* of `tandem.contract.names`: (pairs,) float32."""
        ...

    def refit(self, towers: FrozenTowers, cut: Cut) -> FittedRanker:
        """Trains the same anew, on everything before the cut."""
        ...

    def export(self, path: Path) -> ExportedNetwork:
        """Writes the ranker to an ONNX file. Raises ExportError where that differs from PyTorch."""
        ...


@dataclass(frozen=True, kw_only=True)
class RankerTrial:
    """What validation says of a ranker."""

    metrics: Mapping[str, PerUser]
    """Of the validation users, ranked as served."""
    ranker: FittedRanker | None
    """None for the blend, which the bundle's manifest describes."""
    by_epoch: Sequence[float] = ()
    """What validation decided by, before the first epoch and after each; empty where nothing is trained."""
    best_epoch: int = 0
    """The epoch after which that was best."""


class Ranker(Protocol):
    """A kind of ranker, which ranks before the blend does."""

    @property
    def kind(self) -> str:
        """As `ranker.kind` of the configuration names it."""
        ...

    def try_out(self, towers: FrozenTowers, validation: HoldOut) -> RankerTrial:
        """Trains on what comes before `validation` alone, and measures on it."""
        ...

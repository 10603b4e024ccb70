"""A ranker is trained on frozen towers, measured on validation, and exported as an ONNX file of the bundle."""

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
    """A trained ranker."""

    def pair_scores(self, tensors: Tensors) -> npt.NDArray[float32]:
        """Scores of (user, candidate) pairs from the tensors RANKER_* of `tandem.contract.names`: (pairs,) float32."""
        ...

    def refit(self, towers: FrozenTowers, cut: Cut) -> FittedRanker:
        """Trains a ranker of the same kind again, on all events before the cut."""
        ...

    def export(self, path: Path) -> ExportedNetwork:
        """Writes the ranker to an ONNX file. Raises ExportError if its scores differ from PyTorch's."""
        ...


@dataclass(frozen=True, kw_only=True)
class RankerTrial:
    """A ranker with its validation metrics."""

    metrics: Mapping[str, PerUser]
    """Metrics of the validation users, ranked as served."""
    ranker: FittedRanker | None
    """None for the blend, which the bundle's manifest describes."""
    by_epoch: Sequence[float] = ()
    """The deciding validation metric before the first epoch and after each; empty for a ranker without training."""
    best_epoch: int = 0
    """The epoch after which that metric was best."""


class Ranker(Protocol):
    """A kind of ranker that can replace the blend."""

    @property
    def kind(self) -> str:
        """Name in `ranker.kind` of the configuration."""
        ...

    def try_out(self, towers: FrozenTowers, validation: HoldOut) -> RankerTrial:
        """Trains only on events before `validation`, and measures on `validation`."""
        ...

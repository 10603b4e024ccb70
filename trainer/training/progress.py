"""Progress of a fit: its epochs, the best epoch, and whether the fit is done."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from trainer.config.train_config import FitConfig

STOPPING_METRIC = "recall@10"
TIE_METRIC = "ndcg@10"


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """Figures of an epoch."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over the positions of the epoch."""
    metrics: Mapping[str, float]
    """Validation metrics by name; empty without validation."""
    seconds: float
    """Time of training, without validation."""
    interactions_per_second: float
    """Events with a target that all processes together trained on in a second."""
    peak_memory_bytes: int
    """Most memory of process 0 since it started: on a GPU what PyTorch allocated, else the whole process."""


@dataclass
class Progress:
    """State of early stopping."""

    reports: list[EpochReport] = field(default_factory=list)
    best_key: tuple[float, float] = (-1.0, -1.0)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """Copies of the best epoch's weights; empty without validation."""
    minutes: float = 0.0
    """Time of training and validation so far, over all runs of a resumed fit."""
    is_done: bool = False

    def validated(
        self, report: EpochReport, weights: Mapping[str, Tensor], config: FitConfig, *, steps_per_epoch: int
    ) -> None:
        """Counts an epoch with validation metrics, and decides whether it was the last."""
        patience = max(config.patience, -(-config.patience_steps // steps_per_epoch))
        self.reports.append(report)
        key = (report.metrics[STOPPING_METRIC], report.metrics[TIE_METRIC])
        if key > self.best_key:
            self.best_key, self.best_epoch, self.best_weights = key, report.epoch, copy.deepcopy(dict(weights))
        elif report.epoch - max(self.best_epoch, config.warmup_epochs) >= patience:
            self.is_done = True
        if config.max_minutes and self.minutes >= config.max_minutes:
            self.is_done = True

    def trained(self, report: EpochReport) -> None:
        """Counts an epoch without validation: the newest is the best."""
        self.reports.append(report)
        self.best_epoch = report.epoch

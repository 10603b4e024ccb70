"""Trained towers, frozen, for training and measuring rankers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Dataset, HoldOut
from trainer.evaluation.metrics import PerUser, metrics_per_user
from trainer.scoring.candidate_ranking import PairScores, RankedModel
from trainer.scoring.ranks_by_model import ranks_of_targets
from trainer.scoring.scoring_model import ScoringModel


@dataclass(frozen=True)
class FrozenTowers:
    """A model with its training data."""

    dataset: Dataset
    model: ScoringModel
    """In the rows of `dataset`."""
    config: TrainConfig
    device: torch.device

    def metrics(self, hold_out: HoldOut, pair_scores: PairScores) -> dict[str, PerUser]:
        """Metrics of each held-out user, ranked as served with a ranker."""
        ranked = RankedModel(model=self.model, pair_scores=pair_scores)
        (ranks,) = ranks_of_targets(self.dataset, hold_out, ranked.score_users(self.dataset, hold_out))
        return metrics_per_user(ranks)

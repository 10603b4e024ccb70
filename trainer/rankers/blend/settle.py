"""Chooses on validation what the sources of the blend are fitted with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Dataset, HoldOut, sample_positions
from trainer.evaluation.metrics import mean_metrics, metrics_per_user
from trainer.features.encoded import Encoded
from trainer.features.interaction_matrix import interaction_matrix
from trainer.features.objectives import target_weights
from trainer.models.ease import LinearItems
from trainer.rankers.blend.choice import CHOICE_METRIC
from trainer.scoring.ranks_by_model import ranks_of_targets
from trainer.sources.all_sources import blended_sources

SETTLING_USERS: Final = 2_000
"""Most validation users whose histories are scored for each value tried."""


def settle_sources(encoded: Encoded, validation: HoldOut, config: TrainConfig) -> TrainConfig:
    """The configuration with one value in place of each list that a source is fitted with, chosen on `validation`.

    Learns only from the events before `validation`.
    """
    dataset = encoded.dataset
    trial = ValidationFits.on(dataset, validation, target_weights(dataset, validation, config.objectives))
    for source in blended_sources():
        config = source.settle(trial, config)
    return config


@dataclass(frozen=True)
class ValidationFits:
    """Validation users to try weights between items on; see `FitTrial`."""

    dataset: Dataset
    hold_out: HoldOut
    """At most SETTLING_USERS users."""
    weights: npt.NDArray[np.float32] | None
    """(evaluated,) float32, how much each user's choice counts; None: all alike."""

    @classmethod
    def on(cls, dataset: Dataset, hold_out: HoldOut, weights: npt.NDArray[np.float32] | None) -> ValidationFits:
        """A sample of the users of a hold-out; `weights`, (evaluated,) float32, belong to all of them."""
        positions = sample_positions(hold_out, SETTLING_USERS)
        users, targets = hold_out.users[positions], hold_out.target_rows[positions]
        sample = replace(hold_out, users=users, target_rows=targets)
        return cls(dataset, sample, None if weights is None else weights[positions])

    @property
    def num_events(self) -> npt.NDArray[np.int64]:
        """See `FitTrial.num_events`."""
        return self.hold_out.num_history_events

    @cached_property
    def known(self) -> Dataset:
        """The events before the hold-out."""
        return self.dataset.first_events(self.num_events)

    def qualities(self, learned: LinearItems, decays_events: Sequence[float]) -> list[float]:
        """See `FitTrial.qualities`."""
        histories = [interaction_matrix(self.known, recency_tau=decay) for decay in decays_events]

        def score_users(users: npt.NDArray[np.int64]) -> Sequence[npt.NDArray[np.float32]]:
            return [learned.history_scores(history[users]) for history in histories]

        all_ranks = ranks_of_targets(self.dataset, self.hold_out, score_users, num_rankings=len(histories))
        return [mean_metrics(metrics_per_user(ranks), self.weights)[CHOICE_METRIC] for ranks in all_ranks]

"""Calibrates the hybrid blend, and chooses the share of each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import BlendSpec, Calibration
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut, Dataset, HoldOut, history_states, sample_positions
from trainer.evaluation.metrics import PerUser, mean_metrics, metrics_per_user
from trainer.features.objectives import target_weights
from trainer.scoring.ranks_by_model import model_ranks
from trainer.scoring.scoring_model import EncodedUsers, ScoringModel, vectors_of_users
from trainer.sources.all_sources import blended_sources, proposing
from trainer.sources.base.calibration import calibration_of_products
from trainer.sources.base.source import Histories, Share, ShareChoice, Shares, unweighted

CALIBRATION_USERS: Final = 1_000
"""Most users whose scores of all items the calibration is measured on."""
CHOICE_METRIC: Final = "ndcg@10"


@dataclass(frozen=True, kw_only=True)
class BlendChoice:
    """The chosen blend, with its validation metrics."""

    shares: Shares | None
    """Shares of the model's sources, by source key; None if the two towers are the only source."""
    by_weight: Mapping[str, Mapping[float, float]]
    """Mean CHOICE_METRIC on validation, by source key and by weight tried, with the shares of the sources chosen before
    and without the sources chosen later."""
    metrics: Mapping[str, PerUser]
    """Metrics of the validation users with the blend of these shares."""
    two_tower: Mapping[str, PerUser]
    """Metrics of the validation users with the two towers alone."""
    by_source: Mapping[str, Mapping[str, PerUser]] = field(default_factory=dict)
    """Metrics of the validation users with each source alone that has a share, by source key."""


def choose_blend(dataset: Dataset, validation: HoldOut, model: ScoringModel, config: TrainConfig) -> BlendChoice:
    """Takes the shares with the best CHOICE_METRIC on validation by full ranking; ties go to the lowest share.

    Chooses one source at a time, which tries a few blends instead of all combinations. A source has a share of what the
    sources before it leave, so the last source is chosen first. The user tower runs once for all blends.
    """
    weights = target_weights(dataset, validation, config.objectives)
    trial = _Trial(dataset, validation, model, EncodedUsers(dataset, validation, model), weights)
    (alone,) = trial.quality([None])
    shares: Shares = {}
    metrics: Mapping[str, PerUser] = alone
    by_weight: dict[str, Mapping[float, float]] = {}
    sources = [source for source in blended_sources() if source.name in model.sources]
    for source in reversed(sources):
        choice = source.choose(trial, shares, config)
        shares, metrics, by_weight[source.key] = choice.shares, choice.metrics, choice.by_weight
    weighed = [source.key for source in sources if shares[source.key].weight > 0.0]
    each_alone = trial.quality([trial.calibrations.spec({key: unweighted(shares[key])}) for key in weighed])
    return BlendChoice(
        shares=proposing(shares) if any(source.is_served(shares[source.key]) for source in sources) else None,
        by_weight=by_weight,
        metrics=metrics,
        two_tower=alone,
        by_source=dict(zip(weighed, each_alone, strict=True)),
    )


def calibrate(
    dataset: Dataset, cut: Cut, model: ScoringModel, shares: Shares, *, encoded_users: EncodedUsers | None = None
) -> BlendSpec:
    """The blend of these shares, calibrated on all items' scores for at most CALIBRATION_USERS users of the cut.

    `encoded_users`, the cut's users encoded by this model, saves running the user tower. Raises ValueError for a share
    of a source that the model does not have.
    """
    return _Calibrations(dataset, cut, model, encoded_users).spec(shares)


@dataclass(frozen=True)
class _Calibrations:
    """Calibrations of a model's scores. They do not depend on weights, so each is measured once for all blends."""

    dataset: Dataset
    cut: Cut
    model: ScoringModel
    encoded_users: EncodedUsers | None
    _measured: dict[tuple[str, Share], Calibration] = field(default_factory=dict)

    @cached_property
    def collaborative(self) -> Calibration:
        """Calibration of the two towers' scores."""
        states = history_states(self.dataset, self.cut, self.users)
        vectors = vectors_of_users(self.dataset, self.users, states, self.model, self.encoded_users)
        return calibration_of_products(vectors, self.model.item_vectors)

    @cached_property
    def users(self) -> npt.NDArray[np.int64]:
        """(at most CALIBRATION_USERS,) int64, users of the calibration."""
        users: npt.NDArray[np.int64] = self.cut.users[sample_positions(self.cut, CALIBRATION_USERS)]
        return users

    @cached_property
    def histories(self) -> Histories:
        """Histories of `users`."""
        return self.model.histories(history_states(self.dataset, self.cut, self.users))

    def spec(self, shares: Shares) -> BlendSpec:
        """The calibrated blend of these shares."""
        spec = BlendSpec(0.0, self.collaborative, None)
        for source in blended_sources():
            share = shares.get(source.key)
            if share is None or not source.is_served(share):
                continue
            fitted = self.model.blended_source(source)
            measured = source.key, unweighted(share)
            if measured not in self._measured:
                self._measured[measured] = fitted.calibration(self.histories, share)
            spec = source.into(spec, share, self._measured[measured])
        return spec


@dataclass(frozen=True)
class _Trial:
    """Validation users to try blends on; see `ShareTrial`."""

    dataset: Dataset
    hold_out: HoldOut
    model: ScoringModel
    encoded_users: EncodedUsers
    weights: npt.NDArray[np.float32] | None = None
    """(evaluated,) float32, how much each user's choice counts; None: all alike."""

    @cached_property
    def calibrations(self) -> _Calibrations:
        """Calibrations on users of the hold-out."""
        return _Calibrations(self.dataset, self.hold_out, self.model, self.encoded_users)

    def with_users(self, max_users: int) -> _Trial:
        """See `ShareTrial.with_users`."""
        positions = sample_positions(self.hold_out, max_users)
        users, targets = self.hold_out.users[positions], self.hold_out.target_rows[positions]
        return replace(
            self,
            hold_out=replace(self.hold_out, users=users, target_rows=targets),
            weights=None if self.weights is None else self.weights[positions],
        )

    def best(self, tried: Sequence[Shares], key: str) -> ShareChoice:
        """See `ShareTrial.best`."""
        qualities = self.quality([self.calibrations.spec(shares) for shares in tried])
        means = [mean_metrics(metrics, self.weights)[CHOICE_METRIC] for metrics in qualities]
        best = int(np.argmax(means))  # the first, if several are equally good
        return ShareChoice(
            shares=tried[best],
            metrics=qualities[best],
            by_weight={shares[key].weight: mean for shares, mean in zip(tried, means, strict=True)},
        )

    def quality(self, specs: Sequence[BlendSpec | None]) -> list[dict[str, PerUser]]:
        """Metrics of each user with each blend."""
        ranks_by_blend = model_ranks(self.dataset, self.hold_out, self.model, specs, encoded_users=self.encoded_users)
        return [metrics_per_user(ranks) for ranks in ranks_by_blend]

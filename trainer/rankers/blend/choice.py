"""Calibrates the hybrid blend, and chooses how much each source counts in it."""

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
from trainer.evaluation.metrics import PerUser, metrics_per_user
from trainer.scoring.ranks_by_model import model_ranks
from trainer.scoring.scoring_model import EncodedUsers, ScoringModel, vectors_of_users
from trainer.sources.all_sources import blended_sources
from trainer.sources.base.calibration import calibration_of_products
from trainer.sources.base.source import Histories, ShareChoice, Shares

CALIBRATION_USERS: Final = 1_000
"""Users, with all items each, over whose scores the calibration is measured."""
CHOICE_METRIC: Final = "ndcg@10"


@dataclass(frozen=True, kw_only=True)
class BlendChoice:
    """What is blended, and what validation says of it."""

    shares: Shares | None
    """By the keys of the sources that the model has; None where the two towers are the only source."""
    by_weight: Mapping[str, Mapping[float, float]]
    """By the keys of these sources: mean CHOICE_METRIC on validation for each weight tried, with the shares of the
    sources that were chosen before and without the others."""
    metrics: Mapping[str, PerUser]
    """Of the validation users, by the blend of these shares."""
    two_tower: Mapping[str, PerUser]
    """Of the validation users, by the two towers alone."""


def choose_blend(dataset: Dataset, validation: HoldOut, model: ScoringModel, config: TrainConfig) -> BlendChoice:
    """Takes the shares with the best CHOICE_METRIC on validation by full ranking, of equally good ones the lowest.

    One source after the other, which tries a few blends instead of all. A source shares what the ones before it leave,
    so the last one is chosen first. The user tower runs once for all of them.
    """
    trial = _Trial(dataset, validation, model, EncodedUsers(dataset, validation, model))
    (alone,) = trial.quality([None])
    shares: Shares = {}
    metrics: Mapping[str, PerUser] = alone
    by_weight: dict[str, Mapping[float, float]] = {}
    sources = [source for source in blended_sources() if source.name in model.sources]
    for source in reversed(sources):
        choice = source.choose(trial, shares, config)
        shares, metrics, by_weight[source.key] = choice.shares, choice.metrics, choice.by_weight
    return BlendChoice(
        shares=shares if any(source.is_served(shares[source.key]) for source in sources) else None,
        by_weight=by_weight,
        metrics=metrics,
        two_tower=alone,
    )


def calibrate(
    dataset: Dataset, cut: Cut, model: ScoringModel, shares: Shares, *, encoded_users: EncodedUsers | None = None
) -> BlendSpec:
    """The blend of these shares, calibrated on all items' scores for at most CALIBRATION_USERS users of the cut.

    With `encoded_users`, those of the cut by this model, the user tower does not run. Raises ValueError for a
    share of a source that the model does not have.
    """
    return _Calibrations(dataset, cut, model, encoded_users).spec(shares)


@dataclass(frozen=True)
class _Calibrations:
    """Calibrations do not depend on weights, so each is measured once for all blends of a model."""

    dataset: Dataset
    cut: Cut
    model: ScoringModel
    encoded_users: EncodedUsers | None
    _measured: dict[tuple[str, float | None], Calibration] = field(default_factory=dict)

    @cached_property
    def collaborative(self) -> Calibration:
        """Of the two towers."""
        states = history_states(self.dataset, self.cut, self.users)
        vectors = vectors_of_users(self.dataset, self.users, states, self.model, self.encoded_users)
        return calibration_of_products(vectors, self.model.item_vectors)

    @cached_property
    def users(self) -> npt.NDArray[np.int64]:
        """(at most CALIBRATION_USERS,) int64."""
        users: npt.NDArray[np.int64] = self.cut.users[sample_positions(self.cut, CALIBRATION_USERS)]
        return users

    @cached_property
    def histories(self) -> Histories:
        """Of these users."""
        return self.model.histories(history_states(self.dataset, self.cut, self.users))

    def spec(self, shares: Shares) -> BlendSpec:
        """The calibrated blend of these shares."""
        spec = BlendSpec(0.0, self.collaborative, None)
        for source in blended_sources():
            share = shares.get(source.key)
            if share is None or not source.is_served(share):
                continue
            fitted = self.model.blended_source(source)
            measured = source.key, share.decay_events
            if measured not in self._measured:
                self._measured[measured] = fitted.calibration(self.histories, share)
            spec = source.into(spec, share, self._measured[measured])
        return spec


@dataclass(frozen=True)
class _Trial:
    """What blends are tried on."""

    dataset: Dataset
    hold_out: HoldOut
    model: ScoringModel
    encoded_users: EncodedUsers

    @cached_property
    def calibrations(self) -> _Calibrations:
        """On users of the hold-out."""
        return _Calibrations(self.dataset, self.hold_out, self.model, self.encoded_users)

    def of_users(self, most: int) -> _Trial:
        """See `ShareTrial.of_users`."""
        places = sample_positions(self.hold_out, most)
        users, targets = self.hold_out.users[places], self.hold_out.target_rows[places]
        return replace(self, hold_out=replace(self.hold_out, users=users, target_rows=targets))

    def best(self, tried: Sequence[Shares], key: str) -> ShareChoice:
        """See `ShareTrial.best`."""
        qualities = self.quality([self.calibrations.spec(shares) for shares in tried])
        means = [float(metrics[CHOICE_METRIC].mean()) for metrics in qualities]
        best = int(np.argmax(means))  # the first of equally good ones
        return ShareChoice(
            shares=tried[best],
            metrics=qualities[best],
            by_weight={shares[key].weight: mean for shares, mean in zip(tried, means, strict=True)},
        )

    def quality(self, specs: Sequence[BlendSpec | None]) -> list[dict[str, PerUser]]:
        """Metrics of each user by each blend."""
        ranks = model_ranks(self.dataset, self.hold_out, self.model, specs, encoded_users=self.encoded_users)
        return [metrics_per_user(one) for one in ranks]

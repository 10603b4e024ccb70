"""Calibrates the hybrid blend, and chooses how much each source counts in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import BlendSpec, Calibration, ItemItemSpec
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut, Dataset, HoldOut, history_states, sample_places
from trainer.evaluation.metrics import PerUser, metrics_per_user
from trainer.scoring.ranks_by_model import model_ranks
from trainer.scoring.scoring_model import EncodedUsers, ScoringModel, vectors_of_users

CALIBRATION_USERS = 1_000
"""Users, with all items each, over whose scores the calibration is measured."""
DECAY_USERS = 5_000
"""Users at most by whom the decay of the item-item source is chosen."""
CHOICE_METRIC = "ndcg@10"
# A smaller share of the scores' size is what float32 leaves of equal scores.
_MIN_RELATIVE_STD = 1e-5
_BATCH_VECTORS = 65_536


@dataclass(frozen=True, kw_only=True)
class BlendWeights:
    """How much each source counts; what `calibrate` needs beside a model."""

    content: float = 0.0
    """Share of content, 0 to 1."""
    item_item: float = 0.0
    """Share of the item-item source in the rest, 0 to 1; 0 leaves it out of the bundle."""
    decay_events: float = 1.0
    """Decay of the item-item source."""


@dataclass(frozen=True, kw_only=True)
class BlendChoice:
    """What is blended, and what validation says of it."""

    weights: BlendWeights | None
    """None where the two towers are the only source."""
    by_content_weight: Mapping[float, float]
    """Mean CHOICE_METRIC on validation for each weight of content tried; empty without content."""
    by_item_item_weight: Mapping[float, float]
    """The same for each weight of the item-item source, without content; empty without that source."""
    metrics: Mapping[str, PerUser]
    """Of the validation users, by the blend of these weights."""
    two_tower: Mapping[str, PerUser]
    """Of the validation users, by the two towers alone."""


def choose_blend(dataset: Dataset, validation: HoldOut, model: ScoringModel, config: TrainConfig) -> BlendChoice:
    """Takes the weights with the best CHOICE_METRIC on validation by full ranking, of equally good ones the lowest.

    One after the other, which tries a few blends instead of all: the decay by the item-item source alone, its weight
    without content, then the weight of content. The user tower runs once for all of them.
    """
    asked = _Validation(dataset, validation, model, EncodedUsers(dataset, validation, model))
    (alone,) = asked.quality([None])
    weights = BlendWeights()
    metrics: Mapping[str, PerUser] = alone
    by_item_item: dict[float, float] = {}
    if model.item_item is not None:
        weights = replace(weights, decay_events=asked.choose_decay(config.item_item.decays_events))
        tried = [replace(weights, item_item=weight) for weight in config.ranker.item_item_weights]
        weights, metrics, by_item_item = asked.best(tried, lambda one: one.item_item)
    by_content: dict[float, float] = {}
    if model.content_vectors is not None:
        tried = [replace(weights, content=weight) for weight in config.ranker.content_weights]
        weights, metrics, by_content = asked.best(tried, lambda one: one.content)
    nothing_to_blend = model.content_vectors is None and weights.item_item == 0.0
    return BlendChoice(
        weights=None if nothing_to_blend else weights,
        by_content_weight=by_content,
        by_item_item_weight=by_item_item,
        metrics=metrics,
        two_tower=alone,
    )


def calibrate(
    dataset: Dataset,
    cut: Cut,
    model: ScoringModel,
    weights: BlendWeights,
    *,
    encoded_users: EncodedUsers | None = None,
) -> BlendSpec:
    """The blend of these weights, calibrated on all items' scores for at most CALIBRATION_USERS users of the cut.

    With `encoded_users`, those of the cut by this model, the user tower does not run. Raises ValueError for a
    weight of a source that the model does not have.
    """
    users = cut.users[sample_places(cut, CALIBRATION_USERS)]
    states = history_states(dataset, cut, users)
    vectors = vectors_of_users(dataset, users, states, model, encoded_users)
    item_item = None
    if weights.item_item > 0.0:
        scores = model.item_item_scores_of(states, weights.decay_events)
        item_item = ItemItemSpec(weights.item_item, weights.decay_events, _calibration_of(scores))
    content = None
    if model.content_vectors is not None:
        content = calibration(model.profiles_of(states), model.content_vectors)
    elif weights.content > 0.0:
        raise ValueError("a model without content has none to blend")
    return BlendSpec(weights.content, calibration(vectors, model.item_vectors), content, item_item)


@dataclass(frozen=True)
class _Validation:
    """What blends are tried on."""

    dataset: Dataset
    hold_out: HoldOut
    model: ScoringModel
    encoded_users: EncodedUsers

    def choose_decay(self, decays_events: Sequence[float]) -> float:
        """The decay with which the item-item source alone is best, by DECAY_USERS users at most."""
        places = sample_places(self.hold_out, DECAY_USERS)
        users, targets = self.hold_out.users[places], self.hold_out.target_rows[places]
        some = replace(self, hold_out=replace(self.hold_out, users=users, target_rows=targets))
        tried = [BlendWeights(item_item=1.0, decay_events=decay) for decay in decays_events]
        best, _, _ = some.best(tried, lambda one: one.decay_events)
        return best.decay_events

    def best(
        self, tried: Sequence[BlendWeights], key: Callable[[BlendWeights], float]
    ) -> tuple[BlendWeights, Mapping[str, PerUser], dict[float, float]]:
        """The best of some weights, its metrics, and the mean CHOICE_METRIC of all by `key`, which is ascending."""
        qualities = self.quality(self._calibrated(tried))
        means = [float(metrics[CHOICE_METRIC].mean()) for metrics in qualities]
        best = int(np.argmax(means))  # the first of equally good ones
        return tried[best], qualities[best], {key(one): mean for one, mean in zip(tried, means, strict=True)}

    def quality(self, specs: Sequence[BlendSpec | None]) -> list[dict[str, PerUser]]:
        """Metrics of each user by each blend."""
        ranks = model_ranks(self.dataset, self.hold_out, self.model, specs, encoded_users=self.encoded_users)
        return [metrics_per_user(one) for one in ranks]

    def _calibrated(self, tried: Sequence[BlendWeights]) -> list[BlendSpec]:
        """A blend for each of several weights. Calibrations do not depend on weights, so each is measured once."""
        full = {
            decay: self._calibrate(BlendWeights(item_item=1.0, decay_events=decay))
            for decay in {one.decay_events for one in tried if one.item_item > 0.0}
        }
        plain = next(iter(full.values())) if full else self._calibrate(BlendWeights())
        specs = []
        for one in tried:
            source = full[one.decay_events].item_item if one.item_item > 0.0 else None
            item_item = replace(source, weight=one.item_item) if source is not None else None
            specs.append(replace(plain, content_weight=one.content, item_item=item_item))
        return specs

    def _calibrate(self, weights: BlendWeights) -> BlendSpec:
        return calibrate(self.dataset, self.hold_out, self.model, weights, encoded_users=self.encoded_users)


def _calibration_of(scores: npt.NDArray[np.float32]) -> Calibration:
    """Of scores that are all there, (users, items)."""
    mean, mean_square = float(scores.mean(dtype=np.float64)), float(np.square(scores, dtype=np.float64).mean())
    return _calibration_from_moments(mean, mean_square)


def calibration(user_vectors: npt.NDArray[np.float32], item_vectors: npt.NDArray[np.floating]) -> Calibration:
    """Mean and standard deviation of the inner products of all (user, item) pairs: (users, d) and (items, d).

    They follow from the first and second moments of both sides, so that no pair has to be scored. Scores that are all
    equal have standard deviation 1: they order nothing, whatever they are divided by.
    """
    user_mean, user_moment = _moments(user_vectors)
    item_mean, item_moment = _moments(item_vectors)
    mean = float(user_mean @ item_mean)
    mean_square = float((user_moment * item_moment).sum())
    return _calibration_from_moments(mean, mean_square)


def _calibration_from_moments(mean: float, mean_square: float) -> Calibration:
    std = float(np.sqrt(max(mean_square - mean**2, 0.0)))
    if std <= _MIN_RELATIVE_STD * np.sqrt(mean_square):
        std = 1.0
    return Calibration(mean, std)


def _moments(vectors: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean, (d,), and mean of the outer products, (d, d), of (n, d) vectors."""
    dim = vectors.shape[1]
    total, outer = np.zeros(dim), np.zeros((dim, dim))
    for start in range(0, len(vectors), _BATCH_VECTORS):
        batch = vectors[start : start + _BATCH_VECTORS].astype(np.float64)
        total += batch.sum(axis=0)
        outer += batch.T @ batch
    return total / len(vectors), outer / len(vectors)

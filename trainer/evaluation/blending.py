"""Calibrates the hybrid blend, and chooses how much content it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import BlendSpec, Calibration
from trainer.dataset import Dataset, HoldOut, history_states, sample_places
from trainer.evaluation.full_ranking import model_ranks
from trainer.evaluation.metrics import PerUser, metrics_per_user
from trainer.evaluation.scoring import ScoringModel

CALIBRATION_USERS = 1_000
"""Users, with all items each, over whose scores the calibration is measured."""
CHOICE_METRIC = "ndcg@10"
# A smaller share of the scores' size is what float32 leaves of equal scores.
_MIN_RELATIVE_STD = 1e-5
_BATCH_VECTORS = 65_536


@dataclass(frozen=True, kw_only=True)
class WeightChoice:
    """How much content the blend holds, and what validation says of it."""

    content_weight: float | None
    """None where the model has no content, so that there is nothing to blend."""
    by_weight: Mapping[float, float]
    """Mean CHOICE_METRIC on validation for each weight tried; empty without content."""
    metrics: Mapping[str, PerUser]
    """Of the validation users, by the blend of that weight."""
    two_tower: Mapping[str, PerUser]
    """Of the validation users, by the two towers alone."""


def choose_content_weight(
    dataset: Dataset, validation: HoldOut, model: ScoringModel, content_weights: Sequence[float]
) -> WeightChoice:
    """Takes the weight with the best CHOICE_METRIC on validation, of equally good ones the lowest.

    All are tried in one pass by full ranking, as they would be served.
    """
    if model.content_vectors is None:
        two_tower = metrics_per_user(model_ranks(dataset, validation, model, [None])[0])
        return WeightChoice(content_weight=None, by_weight={}, metrics=two_tower, two_tower=two_tower)
    calibrated = calibrate(dataset, validation, model)
    blends = [replace(calibrated, content_weight=weight) for weight in content_weights]
    two_tower, *blended = map(metrics_per_user, model_ranks(dataset, validation, model, [None, *blends]))
    by_weight = {
        weight: float(metrics[CHOICE_METRIC].mean()) for weight, metrics in zip(content_weights, blended, strict=True)
    }
    best = max(content_weights, key=lambda weight: (by_weight[weight], -weight))
    return WeightChoice(
        content_weight=best,
        by_weight=by_weight,
        metrics=blended[list(content_weights).index(best)],
        two_tower=two_tower,
    )


def calibrate(dataset: Dataset, hold_out: HoldOut, model: ScoringModel) -> BlendSpec:
    """A blend without content, calibrated on the scores of at most CALIBRATION_USERS held-out users with all items.

    `dataclasses.replace` gives it the weight. Raises ValueError for a model without content.
    """
    if model.content_vectors is None:
        raise ValueError("a model without content has nothing to blend")
    users = hold_out.users[sample_places(hold_out, CALIBRATION_USERS)]
    states = history_states(dataset, hold_out, users)
    vectors = model.vectors_of([dataset.user_ids[user] for user in users], states)
    return BlendSpec(
        content_weight=0.0,
        collaborative=calibration(vectors, model.item_vectors),
        content=calibration(model.profiles_of(states), model.content_vectors),
    )


def calibration(user_vectors: npt.NDArray[np.float32], item_vectors: npt.NDArray[np.floating]) -> Calibration:
    """Mean and standard deviation of the inner products of all (user, item) pairs: (users, d) and (items, d).

    They follow from the first and second moments of both sides, so that no pair has to be scored. Scores that are all
    equal have standard deviation 1: they order nothing, whatever they are divided by.
    """
    user_mean, user_moment = _moments(user_vectors)
    item_mean, item_moment = _moments(item_vectors)
    mean = float(user_mean @ item_mean)
    mean_square = float((user_moment * item_moment).sum())
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

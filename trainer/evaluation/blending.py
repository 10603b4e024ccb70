"""Calibrates the hybrid blend, and chooses how much content it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import BlendSpec, Calibration
from trainer.dataset import Dataset, HoldOut, history_states, sample_places
from trainer.evaluation.full_ranking import model_ranks
from trainer.evaluation.metrics import PerUser, metrics_per_user
from trainer.evaluation.scoring import ScoringModel, UserSide

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
    """Takes the weight, ascending in `content_weights`, with the best CHOICE_METRIC on validation, the lower of equals.

    All are tried in one pass by full ranking, as they would be served.
    """
    if model.content_vectors is None:
        two_tower = metrics_per_user(model_ranks(dataset, validation, model, [None])[0])
        return WeightChoice(content_weight=None, by_weight={}, metrics=two_tower, two_tower=two_tower)
    users = sample_user_side(dataset, validation, model)
    blends = [blend_spec(model, users, content_weight) for content_weight in content_weights]
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


def sample_user_side(dataset: Dataset, hold_out: HoldOut, model: ScoringModel) -> UserSide:
    """At most CALIBRATION_USERS evaluated users, as they were before their held-out item."""
    users = hold_out.users[sample_places(hold_out, CALIBRATION_USERS)]
    return model.user_side([dataset.user_ids[user] for user in users], history_states(dataset, hold_out, users))


def blend_spec(model: ScoringModel, users: UserSide, content_weight: float) -> BlendSpec:
    """The blend of a weight, calibrated on the scores of these users with all items of a model that has content."""
    if model.content_vectors is None or users.profiles is None:
        raise ValueError("a model without content has nothing to blend")
    return BlendSpec(
        content_weight,
        calibration(users.vectors, model.item_vectors),
        calibration(users.profiles, model.content_vectors),
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

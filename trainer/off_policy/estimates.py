"""What the judged policy earns per answer, by three estimators, and what the log itself earned, each with an interval.

- `ips`: the sum over slots of weight * reward. Right if the log could have shown whatever the judged policy shows.
- `snips`: the weighted mean of the rewards, times what is shown. The same, for a long log.
- `dr`: what the reward model predicts, plus the sum of weight * (reward - predicted). Right also if the model is.

The unit is the user: answers to one user are not independent. Every estimate is a mean or a ratio of means over
answers, so the interval comes from the influence of each user on it (the delta method) and the normal distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from trainer.off_policy.judged import Floats, JudgedLog, sums

CONFIDENCE: Final = 0.95
RARE_WEIGHT: Final = 10.0
_NORMAL_QUANTILE: Final = 1.959963984540054
_TINY: Final = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A reward per answer with its 95 % interval."""

    value: float
    standard_error: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.value - _NORMAL_QUANTILE * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.value + _NORMAL_QUANTILE * self.standard_error


@dataclass(frozen=True, kw_only=True)
class Support:
    """How much of the log speaks about the judged policy."""

    num_users: int
    num_answers: int
    num_slots: int
    num_matching_slots: int
    """Slots with a weight above 0: the judged policy might have shown the item too."""
    effective_users: float
    """(sum of weights)^2 / sum of squared weights, with the weights of a user added: as many users with equal weights
    would tell as much (Kish)."""
    effective_rewards: float
    """The same for weight * reward over slots: as many rewards with equal weights would tell as much."""
    supported: Estimate
    """Share of what the judged policy shows that the log speaks about: 1 where it could have shown it all and nothing
    is clipped."""
    rare_share: float
    """Share of that which rests on slots with a weight above RARE_WEIGHT: what the log shows seldom."""
    rare_rewards: float
    """What these slots are expected to earn, as a number of rewards with equal weights: if it is small, few of them
    decide, and the interval is too narrow, because those that it does not hold do not widen it."""
    max_weight: float
    """Weights above it are clipped to it."""
    num_clipped_slots: int
    clipped_share: float
    """Share of the sum of weights that clipping has cut off."""


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """All estimates of one judged policy."""

    logged: Estimate
    """What the logged answers earned."""
    ips: Estimate
    snips: Estimate
    dr: Estimate
    difference: Estimate
    """`dr` less `logged`."""
    support: Support

    def by_name(self) -> dict[str, Estimate]:
        """All estimates, by the names of the fields."""
        return {
            "logged": self.logged,
            "ips": self.ips,
            "snips": self.snips,
            "dr": self.dr,
            "difference": self.difference,
        }


def estimate(log: JudgedLog, *, max_weight: float) -> Estimates:
    """Estimates from a log of at least two users; weights above `max_weight` are clipped."""
    clipped = _clipped(log, max_weight)
    num_answers = log.num_answers
    answers_of_user = np.bincount(log.answer_users, minlength=log.num_users).astype(np.float64)
    predicted_of_user = sums(log.answer_users, log.predicted, log.num_users)

    def mean_per_answer(sums_of_users: Floats, gradient: Floats) -> tuple[float, Floats]:
        value = float(sums_of_users.sum() / num_answers)
        own = (sums_of_users - value * answers_of_user) / num_answers
        return value, own + clipped.influence_through_shares(gradient / num_answers)

    def weighted(values: Floats, plus: Floats | float = 0.0) -> tuple[float, Floats]:
        # Of the rewards for `dr` too: what is predicted with and without weights moves alike with the shares.
        through_shares = clipped.weight_gradient(log.rewards)
        return mean_per_answer(plus + log.by_user(clipped.weights * values), through_shares)

    logged, logged_influence = mean_per_answer(log.by_user(log.rewards), np.zeros(len(log.shares)))
    dr, dr_influence = weighted(log.rewards - log.slot_predicted, predicted_of_user)
    return Estimates(
        logged=_estimate(logged, logged_influence),
        ips=_estimate(*weighted(log.rewards)),
        snips=_self_normalised(clipped, answers_of_user),
        dr=_estimate(dr, dr_influence),
        difference=_estimate(dr - logged, dr_influence - logged_influence),
        support=_support(log, clipped, max_weight),
    )


def _clipped(log: JudgedLog, max_weight: float) -> JudgedLog:
    examination = log.examination
    if examination is not None:
        moves = np.where(log.weights > max_weight, 0.0, 1.0)[:, None]
        examination = replace(examination, weight_gradients=moves * examination.weight_gradients)
    return replace(log, weights=np.minimum(log.weights, max_weight), examination=examination)


def _estimate(value: float, influence: Floats) -> Estimate:
    """An estimate from the influence of each user on it, (users,) float64."""
    num_users = len(influence)
    variance = float(influence @ influence) * num_users / (num_users - 1)
    return Estimate(value=value, standard_error=float(np.sqrt(variance)))


def _self_normalised(log: JudgedLog, answers_of_user: Floats) -> Estimate:
    weights = log.by_user_and_position(log.weights * log.shares[log.slot_positions])
    earned = log.by_user_and_position(log.weights * log.rewards)
    exposures = log.exposures()
    through_shares = np.zeros(len(log.shares))
    if log.examination is not None:
        # Weights of all positions are comparable: one mean for all, instead of one for each position.
        rate = float(earned.sum()) / max(float(weights.sum()), _TINY)
        exposure_by_weight = float(exposures.sum()) / log.num_answers / max(float(weights.sum()), _TINY)
        through_shares = exposure_by_weight * (
            log.weight_gradient(log.rewards - rate * log.shares[log.slot_positions]) - rate * weights.sum(axis=0)
        )
        through_shares += rate * exposures.sum(axis=0) / log.num_answers
        weights, earned, exposures = (table.sum(axis=1, keepdims=True) for table in (weights, earned, exposures))
    weight = np.maximum(weights.sum(axis=0), _TINY)
    rates = earned.sum(axis=0) / weight
    exposure = exposures.sum(axis=0) / log.num_answers
    influence = (earned - rates * weights) @ (exposure / weight)
    influence += (exposures - exposure * answers_of_user[:, None]) @ rates / log.num_answers
    influence += log.influence_through_shares(through_shares)
    return _estimate(float(exposure @ rates), influence)


def _support(log: JudgedLog, clipped: JudgedLog, max_weight: float) -> Support:
    shown = clipped.weights * log.shares[log.slot_positions]
    weight_of_user = clipped.by_user(shown)
    is_rare = clipped.weights > RARE_WEIGHT
    rare_weights, expected = clipped.weights[is_rare], log.slot_predicted[is_rare]
    rare_squares = float(rare_weights**2 @ expected)
    exposure_of_user = log.exposures().sum(axis=1)
    exposure, total = max(float(exposure_of_user.sum()), _TINY), float(log.weights.sum())
    share = float(weight_of_user.sum()) / exposure
    return Support(
        num_users=log.num_users,
        num_answers=log.num_answers,
        num_slots=len(log.weights),
        num_matching_slots=int(np.count_nonzero(log.weights)),
        effective_users=effective_number(log.by_user(clipped.weights)),
        effective_rewards=effective_number(clipped.weights * log.rewards),
        supported=_estimate(share, (weight_of_user - share * exposure_of_user) / exposure),
        rare_share=float(shown[is_rare].sum()) / max(float(shown.sum()), _TINY),
        rare_rewards=float(rare_weights @ expected) ** 2 / rare_squares if rare_squares else 0.0,
        max_weight=max_weight,
        num_clipped_slots=int(np.count_nonzero(log.weights > max_weight)),
        clipped_share=1.0 - float(clipped.weights.sum()) / total if total else 0.0,
    )


def effective_number(weights: Floats) -> float:
    """(sum of weights)^2 / sum of squared weights; 0 without weights."""
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares else 0.0

"""A simple model of rewards: a rate for each position, times a factor for each item.

The doubly robust estimator needs a prediction for items that the log did not show at a position. Its error costs
precision and no truth, as far as the log supports the judged policy, so two numbers that every log holds are enough.
That holds only if the model agrees with the weights about the positions (see `judged`), so they are given. An item's
factor is shrunk towards 1 as by one expected reward: rewards are few per item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from trainer.off_policy.judged import Floats, Ints, sums

NUM_FOLDS: Final = 2
_PRIOR_REWARDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """Predicts `position_rates[position] * item_factors[item]`."""

    position_rates: Floats
    """(positions,) float64."""
    item_factors: Floats
    """(items,) float64; 1 for an item that was not shown."""

    def predict(self, items: Ints, positions: Ints) -> Floats:
        """Predicted rewards of items at positions, of any one shape."""
        predicted: Floats = self.position_rates[positions] * self.item_factors[items]
        return predicted


def fit(items: Ints, positions: Ints, rewards: Floats, *, num_items: int, shares: Floats) -> RewardModel:
    """Fits the model to slots, (slots,) each, with rates in proportion to `shares`, (positions,) float64."""
    rates = shares * (rewards.sum() / max(float(shares[positions].sum()), 1e-300))
    expected = sums(items, rates[positions], num_items)
    earned = sums(items, rewards, num_items)
    # In units of the mean reward of a rewarded slot, so that the prior does not depend on what rewards are counted in.
    num_rewarded = int(np.count_nonzero(rewards))
    unit = _PRIOR_REWARDS * (float(rewards.sum()) / num_rewarded if num_rewarded else 1.0)
    return RewardModel(position_rates=rates, item_factors=(earned + unit) / (expected + unit))


def mean_rewards(positions: Ints, rewards: Floats, num_positions: int) -> Floats:
    """Mean reward of the slots at each position, (positions,) float64; 0 for a position without slots."""
    shown = np.bincount(positions, minlength=num_positions)
    return sums(positions, rewards, num_positions) / np.maximum(shown, 1)

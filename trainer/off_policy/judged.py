"""Logged answers beside the probabilities of the policy that is judged: the arrays that the estimators read.

A slot is one position of one logged answer. Two click models say what a slot tells about another policy. In both, what
an item earns does not depend on the other items of the answer, so what a policy earns is a sum over its slots.

- `position-based`: an item earns its appeal to the user, times how far the position is looked at. A slot's weight is
  the exposure of its item by the judged policy over that by the logged policy, where exposure is the sum over positions
  of the probability of the item there times how far they are looked at.
- `item-position`: an item earns whatever it earns at a position. A slot's weight is the probability of its item at its
  position by the judged policy over that by the logged policy.

The second assumes less, and most of its weights are larger by about the number of positions (Li et al., KDD 2018,
"Offline evaluation of ranking policies with click models").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ClickModel = Literal["position-based", "item-position"]
POSITION_BASED: Final[ClickModel] = "position-based"
ITEM_POSITION: Final[ClickModel] = "item-position"


def sums(groups: Ints, values: Floats, num_groups: int) -> Floats:
    """Sums of the values of each group, 0 to num_groups - 1: two (n,) arrays -> (num_groups,) float64."""
    return np.asarray(np.bincount(groups, values, num_groups), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What the estimate of the positions' shares does to the estimates that are made with them."""

    influence: Floats
    """(users, positions) float64: the influence of each user on the logarithm of each share."""
    weight_gradients: Floats
    """(slots, positions) float64: derivative of each slot's weight by the logarithm of each share."""


@dataclass(frozen=True, kw_only=True)
class JudgedLog:
    """Answers and their slots. Slots name answers, and answers name users, by their indices."""

    num_users: int
    answer_users: Ints
    """(answers,) int64, 0 to num_users - 1; every user has an answer."""
    shares: Floats
    """(positions,) float64, above 0: how far each position is looked at, of which only ratios have a meaning; 1 in the
    item-position model."""
    target_mass: Floats
    """(answers, positions) float64: the probability that the judged policy shows an item at the position, 1 unless its
    list is shorter."""
    predicted: Floats
    """(answers,) float64: what the reward model says that the judged policy earns."""
    slot_answers: Ints
    """(slots,) int64."""
    slot_positions: Ints
    """(slots,) int64, 0-based."""
    weights: Floats
    """(slots,) float64, at least 0; see the module."""
    rewards: Floats
    """(slots,) float64: what the item earned."""
    slot_predicted: Floats
    """(slots,) float64: what the reward model says that it earned."""
    examination: Examination | None = None
    """None in the item-position model, which estimates nothing about positions."""

    @property
    def num_answers(self) -> int:
        """Number of answers."""
        return len(self.answer_users)

    @property
    def slot_users(self) -> Ints:
        """(slots,) int64."""
        return self.answer_users[self.slot_answers]

    def by_user(self, values: Floats) -> Floats:
        """Sums (slots,) values over each user's slots: (users,) float64."""
        return sums(self.slot_users, values, self.num_users)

    def by_user_and_position(self, values: Floats) -> Floats:
        """Sums (slots,) values: (users, positions) float64."""
        num_positions = len(self.shares)
        cells = self.slot_users * num_positions + self.slot_positions
        return sums(cells, values, self.num_users * num_positions).reshape(self.num_users, num_positions)

    def exposures(self) -> Floats:
        """Exposure by the judged policy, summed over each user's answers: (users, positions) float64."""
        exposures = np.zeros((self.num_users, len(self.shares)))
        np.add.at(exposures, self.answer_users, self.target_mass * self.shares)
        return exposures

    def weight_gradient(self, values: Floats) -> Floats:
        """Derivative of sum(weights * values), (slots,), by the logarithm of each share: (positions,) float64."""
        return np.zeros(len(self.shares)) if self.examination is None else values @ self.examination.weight_gradients

    def influence_through_shares(self, gradient: Floats) -> Floats:
        """How each user moves an estimate through the shares, given its derivative by their logarithms, (positions,)
        float64: (users,) float64."""
        return np.zeros(self.num_users) if self.examination is None else self.examination.influence @ gradient

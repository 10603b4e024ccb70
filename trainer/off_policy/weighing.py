"""Weighs logged answers: how likely the judged policy shows what was shown, beside how likely the logged policy did."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from tandem.contract.exploration import position_probabilities
from trainer.off_policy.examination import estimate_examination
from trainer.off_policy.judged import (
    ITEM_POSITION,
    POSITION_BASED,
    ClickModel,
    Examination,
    Floats,
    Ints,
    JudgedLog,
)
from trainer.off_policy.reward_model import NUM_FOLDS, RewardModel, fit, mean_rewards

_TABLES: Final = 4_096


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Logged answers that explored. Items are named by their index in one list of all items."""

    num_items: int
    users: Ints
    """(answers,) int64, 0 to the number of users - 1; every user has an answer."""
    num_candidates: Ints
    """(answers,) int64: size of the pool that the answer was drawn from."""
    exploration: Floats
    """(answers,) float64, above 0."""
    slot_answers: Ints
    """(slots,) int64, ascending."""
    slot_positions: Ints
    """(slots,) int64: 0, 1, ... within each answer."""
    slot_items: Ints
    """(slots,) int64."""
    slot_ranks: Ints
    """(slots,) int64: place of the item in the pool before exploration."""
    rewards: Floats
    """(slots,) float64."""

    @property
    def num_shown(self) -> Ints:
        """(answers,) int64, number of slots of each answer."""
        return np.bincount(self.slot_answers, minlength=len(self.users))


@dataclass(frozen=True, kw_only=True)
class Orders:
    """The pools of the judged policy for the same answers, best first, before its exploration."""

    offsets: Ints
    """(answers + 1,) int64: the pool of answer i is items[offsets[i] : offsets[i + 1]]."""
    items: Ints
    """(pool items,) int64, indices in the same list as those of the answers."""
    exploration: float
    """Share of positions that the judged policy fills at random."""


def judge(
    answers: Answers, orders: Orders, *, num_positions: int, click_model: ClickModel = POSITION_BASED, seed: int = 0
) -> JudgedLog:
    """The log as the estimators read it. `num_positions` is at least the largest position in the log plus one.

    The reward model that predicts a user's rewards is fitted to other users (cross-fitting, Chernozhukov et al. 2018):
    fitted to the same rewards, it would predict them too well and the interval would be too narrow.
    """
    num_users = int(answers.users.max()) + 1
    mass = _mass(np.minimum(answers.num_shown, np.diff(orders.offsets)), num_positions)
    slots, judged_rows = _judged_rows(answers, orders, num_positions)
    logged_rows = _logged_rows(answers, slots, num_positions)
    weights = np.zeros(len(answers.rewards))
    shares, examination = np.ones(num_positions), None
    if click_model == ITEM_POSITION:
        at = np.arange(len(slots)), answers.slot_positions[slots]
        weights[slots] = judged_rows[at] / logged_rows[at]
    else:
        shares, influence = estimate_examination(
            answers.slot_ranks,
            answers.slot_positions,
            answers.rewards,
            answers.users[answers.slot_answers],
            num_users=num_users,
            num_positions=num_positions,
        )
        exposures = logged_rows @ shares
        weights[slots] = (judged_rows @ shares) / exposures
        gradients = np.zeros((len(weights), num_positions))
        gradients[slots] = shares * (judged_rows - weights[slots, None] * logged_rows) / exposures[:, None]
        examination = Examination(influence=influence, weight_gradients=gradients)
    predicted, slot_predicted = _predictions(answers, orders, mass, None if examination is None else shares, seed)
    return JudgedLog(
        num_users=num_users,
        answer_users=answers.users,
        shares=shares,
        target_mass=mass,
        predicted=predicted,
        slot_answers=answers.slot_answers,
        slot_positions=answers.slot_positions,
        weights=weights,
        rewards=answers.rewards,
        slot_predicted=slot_predicted,
        examination=examination,
    )


@lru_cache(maxsize=_TABLES)
def _table(num_candidates: int, num_positions: int, exploration: float) -> Floats:
    """`position_probabilities` with a column for every position: (num_positions + 1, num_positions)."""
    table = np.zeros((num_positions + 1, num_positions))
    known = position_probabilities(num_candidates, num_positions, exploration)
    table[:, : known.shape[1]] = known
    return table


def _logged_rows(answers: Answers, slots: Ints, num_positions: int) -> Floats:
    """The probability with which the logged policy shows a slot's item at each position: (slots, positions)."""
    pools = np.stack([answers.num_candidates.astype(np.float64), answers.exploration], axis=1)
    distinct, pool_of = np.unique(pools, axis=0, return_inverse=True)
    ranks = np.minimum(answers.slot_ranks[slots], num_positions)
    rows = np.empty((len(slots), num_positions))
    groups = _groups(pool_of.ravel()[answers.slot_answers[slots]], len(distinct))
    for group, (num_candidates, exploration) in zip(groups, distinct.tolist(), strict=True):
        rows[group] = _table(int(num_candidates), num_positions, exploration)[ranks[group]]
    return rows


def _judged_rows(answers: Answers, orders: Orders, num_positions: int) -> tuple[Ints, Floats]:
    """The slots whose item is in the judged policy's pool, and the probability with which that policy shows it at each
    position: (n,) int64 and (n, positions)."""
    sizes = np.diff(orders.offsets)
    keys = np.repeat(np.arange(len(sizes)), sizes) * answers.num_items + orders.items
    if not len(keys):
        return np.empty(0, dtype=np.int64), np.empty((0, num_positions))
    by_key = np.argsort(keys, kind="stable")
    wanted = answers.slot_answers * answers.num_items + answers.slot_items
    found = by_key[np.minimum(np.searchsorted(keys, wanted, sorter=by_key), len(keys) - 1)]
    slots = np.flatnonzero(keys[found] == wanted)
    ranks = np.minimum(found[slots] - orders.offsets[answers.slot_answers[slots]], num_positions)
    rows = np.empty((len(slots), num_positions))
    distinct, size_of = np.unique(sizes, return_inverse=True)
    for group, size in zip(
        _groups(size_of[answers.slot_answers[slots]], len(distinct)), distinct.tolist(), strict=True
    ):
        rows[group] = _table(size, num_positions, orders.exploration)[ranks[group]]
    # No judged policy without exploration shows the lower ranks.
    shown = rows.any(axis=1)
    return slots[shown], rows[shown]


def _predictions(
    answers: Answers, orders: Orders, mass: Floats, shares: Floats | None, seed: int
) -> tuple[Floats, Floats]:
    """What the reward model says that the judged policy earns in each answer, and that each slot earned: (answers,)
    and (slots,). `shares` None: the mean rewards of positions stand for them."""
    num_positions = mass.shape[1]
    num_users = int(answers.users.max()) + 1
    folds = np.random.default_rng(seed).permutation(num_users) % NUM_FOLDS
    answer_folds = folds[answers.users]
    slot_folds = answer_folds[answers.slot_answers]
    predicted, slot_predicted = np.zeros(len(answers.users)), np.zeros(len(answers.rewards))
    for fold in range(NUM_FOLDS):
        others, own = slot_folds != fold, slot_folds == fold
        positions, rewards = answers.slot_positions[others], answers.rewards[others]
        model = fit(
            answers.slot_items[others],
            positions,
            rewards,
            num_items=answers.num_items,
            shares=mean_rewards(positions, rewards, num_positions) if shares is None else shares,
        )
        slot_predicted[own] = model.predict(answers.slot_items[own], answers.slot_positions[own])
        of_fold = np.flatnonzero(answer_folds == fold)
        predicted[of_fold] = _judged_rewards(model, orders, of_fold, mass[of_fold])
    return predicted, slot_predicted


def _judged_rewards(model: RewardModel, orders: Orders, answers: Ints, mass: Floats) -> Floats:
    """What the judged policy earns in these answers, (n,), by the model: (n,) float64."""
    num_positions = mass.shape[1]
    sizes = np.diff(orders.offsets)[answers]
    distinct, size_of = np.unique(sizes, return_inverse=True)
    rewards = np.zeros(len(answers))
    for group, size in zip(_groups(size_of, len(distinct)), distinct.tolist(), strict=True):
        pools = orders.items[orders.offsets[answers[group]][:, None] + np.arange(size)]
        factors = model.item_factors[pools]  # (answers of the group, size)
        table = _table(size, num_positions, orders.exploration)
        ranked = min(size, num_positions)
        by_position = factors[:, :ranked] @ table[:ranked]
        by_position += factors[:, ranked:].sum(axis=1)[:, None] * table[-1]
        rewards[group] = (by_position * mass[group]) @ model.position_rates
    return rewards


def _mass(num_filled: Ints, num_positions: int) -> Floats:
    """1 for the positions that an answer fills, else 0: (answers, positions) float64."""
    return (np.arange(num_positions) < num_filled[:, None]).astype(np.float64)


def _groups(kinds: Ints, num_kinds: int) -> list[Ints]:
    """Indices of the members of each kind, 0 to num_kinds - 1."""
    order = np.argsort(kinds, kind="stable")
    return np.split(order, np.cumsum(np.bincount(kinds, minlength=num_kinds))[:-1])

"""Logs with known truth: users with tastes, a model that knows them in part, clicks with position bias.

There are `num_tastes` kinds of users, and the truth is the mean over the kinds, so that it is exact. A click depends on
the user, the item and the position alone, as the estimators assume, and answers of one user are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from deploy.simulate.behaviour import examination
from tandem.contract.exploration import explore, position_probabilities
from trainer.off_policy.judged import Floats, Ints
from trainer.off_policy.weighing import Answers, Orders

NUM_POSITIONS: Final = 10
_MEAN_CLICK_RATE: Final = 0.06


@dataclass(frozen=True, kw_only=True)
class World:
    """Tastes, and how a logged and a judged model order each taste's pool."""

    click_rates: Floats
    """(tastes, items) float64: the probability of a click at the first position."""
    examined: Floats
    """(positions,) float64: the share of it at each position."""
    logged_orders: Ints
    """(tastes, items) int64, best first."""
    judged_orders: Ints
    """(tastes, items) int64."""
    answers_per_user: Ints
    """(tastes,) int64."""

    @property
    def num_items(self) -> int:
        """Size of the pool."""
        return self.click_rates.shape[1]


def make_world(seed: int, *, num_tastes: int = 200, num_items: int = 60, change: float = 0.3) -> World:
    """A world. `change` is how far the judged model's scores lie from the logged model's, in standard deviations of
    what both know."""
    rng = np.random.default_rng(seed)
    liking = rng.normal(size=(num_tastes, num_items)) + rng.normal(size=num_items)
    rates = np.exp(0.7 * liking)
    known = liking + rng.normal(size=liking.shape)
    judged = known + change * rng.normal(size=liking.shape) + 0.3 * change * liking
    return World(
        click_rates=np.minimum(rates * _MEAN_CLICK_RATE / rates.mean(), 0.9),
        examined=examination(NUM_POSITIONS),
        logged_orders=np.argsort(-known, axis=1),
        judged_orders=np.argsort(-judged, axis=1),
        answers_per_user=rng.integers(1, 6, num_tastes),
    )


def truth(world: World, orders: Ints, exploration: float) -> float:
    """Clicks per answer of a policy that orders the pools so: (tastes, items) int64."""
    table = position_probabilities(world.num_items, NUM_POSITIONS, exploration)
    rates = np.take_along_axis(world.click_rates, orders, axis=1)
    by_position = rates[:, :NUM_POSITIONS] @ table[:-1] + rates[:, NUM_POSITIONS:].sum(axis=1)[:, None] * table[-1]
    clicks = by_position @ world.examined
    return float(np.average(clicks, weights=world.answers_per_user))


def simulate(world: World, *, num_users: int, exploration: float, seed: int) -> tuple[Answers, npt.NDArray[np.int64]]:
    """A log of users with random tastes, and the taste of each answer, (answers,) int64."""
    rng = np.random.default_rng(seed)
    user_tastes = rng.integers(0, len(world.answers_per_user), num_users)
    users = np.repeat(np.arange(num_users), world.answers_per_user[user_tastes])
    tastes = user_tastes[users]
    pool = np.arange(world.num_items)
    ranks = np.stack(
        [explore(pool, num_items=NUM_POSITIONS, exploration=exploration, rng=rng)[0] for _ in range(len(users))]
    )
    items = np.take_along_axis(world.logged_orders[tastes], ranks, axis=1)
    rates = np.take_along_axis(world.click_rates[tastes], items, axis=1) * world.examined
    return (
        Answers(
            num_items=world.num_items,
            users=users,
            num_candidates=np.full(len(users), world.num_items),
            exploration=np.full(len(users), exploration),
            slot_answers=np.repeat(np.arange(len(users)), NUM_POSITIONS),
            slot_positions=np.tile(np.arange(NUM_POSITIONS), len(users)),
            slot_items=items.ravel(),
            slot_ranks=ranks.ravel(),
            rewards=(rng.random(rates.shape) < rates).astype(np.float64).ravel(),
        ),
        tastes,
    )


def judged_orders(world: World, tastes: Ints, exploration: float) -> Orders:
    """The judged policy's pools for answers to users of these tastes."""
    return Orders(
        offsets=np.arange(len(tastes) + 1) * world.num_items,
        items=world.judged_orders[tastes].ravel(),
        exploration=exploration,
    )

"""What happened before the first day: users found items by themselves, so every choice is one of taste."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from deploy.simulate.behaviour import PURCHASE_RATE
from deploy.simulate.world import Ints, World

HISTORY_DAYS: Final = 30
_CART_SECONDS: Final = 300
"""From a view to the cart, and from there to the purchase."""


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """One row of the data set."""

    user: int
    item: int
    type: str
    """`view`, `cart` or `buy`."""
    seconds: int
    """Before the end of the history."""


def interactions(world: World) -> Iterator[Interaction]:
    """The history of all users who were there before, user by user."""
    settings = world.settings
    for user in range(settings.users):
        rng = np.random.default_rng([settings.seed, 1, user])
        number = min(3 + int(rng.geometric(1 / max(settings.events_per_user - 2, 1))), settings.items // 2)
        # Gumbel noise: choices without repeats, each in proportion to its attraction.
        liking = world.liking(user, 0)[: settings.items] + rng.gumbel(size=settings.items)
        chosen = rng.permutation(np.argsort(-liking)[:number])
        carts = world.cart_rates(user)
        times = np.sort(rng.integers(2 * _CART_SECONDS + 1, HISTORY_DAYS * 86_400, number))[::-1]
        for item, seconds in zip(chosen.tolist(), times.tolist(), strict=True):
            yield Interaction(user=user, item=item, type="view", seconds=seconds)
            if rng.random() < carts[item]:
                yield Interaction(user=user, item=item, type="cart", seconds=seconds - _CART_SECONDS)
                if rng.random() < PURCHASE_RATE:
                    yield Interaction(user=user, item=item, type="buy", seconds=seconds - 2 * _CART_SECONDS)


def seen_and_popular(world: World) -> tuple[list[set[int]], Ints]:
    """The items that each user has chosen in the history, and all items by their number of choosers, most first."""
    seen: list[set[int]] = [set() for _ in range(world.num_users)]
    counts = np.zeros(world.num_items, np.int64)
    for row in interactions(world):
        if row.type == "view":
            seen[row.user].add(row.item)
            counts[row.item] += 1
    return seen, np.argsort(-counts, kind="stable")

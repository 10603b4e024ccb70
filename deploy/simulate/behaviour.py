"""What a user does with a list.

The click model is position-based (Craswell et al., WSDM 2008): a user examines position k with a probability that
depends on k alone, and clicks what was examined with the probability of its attraction. A click is followed by
dwelling, perhaps the cart, perhaps the purchase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from deploy.simulate.world import CURRENCY, Floats, World
from tandem.client import EventType

PURCHASE_RATE: Final = 0.6
"""Probability that what is in the cart is bought."""
_DWELL_SECONDS: Final = 20.0
"""Median time with a clicked item."""
_FORGETTING: Final = 0.5
"""Weight of the newest visit in a user's satisfaction."""
_ENOUGH_CLICKS: Final = 2.0
"""Clicks of a visit that satisfy."""
_UNSATISFIED_RETURN: Final = 0.6
"""Share of their usual visits that unsatisfied users make."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something that a user does with a shown item."""

    position: int
    """0-based position in the list."""
    type: EventType
    value: float = 0.0
    """Milliseconds of dwelling; the price of a purchase."""
    currency: str = ""
    """Of a purchase."""


def examination(num_positions: int) -> Floats:
    """(num_positions,) float64: probability that each position is examined, 1 for the first: that of the discount of
    NDCG."""
    examined: Floats = 1.0 / np.log2(np.arange(num_positions) + 2.0)
    return examined


def react(
    rng: np.random.Generator, world: World, user: int, rows: Sequence[int], attraction: Floats
) -> tuple[Action, ...]:
    """What a user does with a list of items, by position; `attraction` is that of all items, (items,) float64.

    A row of -1 is an item that the world does not know; nobody clicks it.
    """
    examined = rng.random(len(rows)) < examination(len(rows))
    tempted = rng.random(len(rows))
    actions: list[Action] = []
    carts = world.cart_rates(user)
    for position, row in enumerate(rows):
        if row < 0 or not examined[position] or tempted[position] >= attraction[row]:
            continue
        actions.append(Action(position=position, type=EventType.CLICK))
        dwell = _DWELL_SECONDS * np.exp(rng.normal(0.0, 0.8)) * (0.5 + attraction[row])
        actions.append(Action(position=position, type=EventType.DWELL, value=round(1_000 * float(dwell))))
        if rng.random() < carts[row]:
            actions.append(Action(position=position, type=EventType.ADD_TO_CART))
            if rng.random() < PURCHASE_RATE:
                price = float(world.prices[row])
                actions.append(Action(position=position, type=EventType.PURCHASE, value=price, currency=CURRENCY))
    return tuple(actions)


def expected_clicks(rows: Sequence[int], attraction: Floats) -> Floats:
    """(positions,) float64: probability that each item of a list is clicked."""
    known = np.asarray(rows, np.int64)
    return np.where(known >= 0, examination(len(rows)) * attraction[known], 0.0)


def satisfied(before: float, num_clicks: int) -> float:
    """A user's satisfaction, 0 to 1, after a visit with this number of clicks."""
    return (1 - _FORGETTING) * before + _FORGETTING * min(num_clicks / _ENOUGH_CLICKS, 1.0)


def return_rate(activity: float, satisfaction: float) -> float:
    """Probability that a user comes today."""
    return activity * (_UNSATISFIED_RETURN + (1 - _UNSATISFIED_RETURN) * satisfaction)

"""Items and users of a shop, and what each user finds attractive.

Tastes and items are directions in a space of a few latent factors. Items of a category lie near each other, so a model
can learn tastes from choices, and the place of a new item from its category. What is clicked and what is bought are two
things: a third of the items are staples, which are looked at no more than others and bought often (the shop of
decision 0072).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from deploy.simulate.settings import WorldSettings

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CATEGORIES: Final = (
    *("garden", "kitchen", "books", "toys", "sports", "music"),
    *("outdoor", "office", "fashion", "beauty", "tools", "games"),
)
COUNTRIES: Final = ("DE", "FR", "GB", "PL")
CURRENCY: Final = "EUR"
_FACTORS: Final = 8
_TASTE_STRENGTH: Final = 2.4
"""Log of how much more attractive an item in the direction of a user's tastes is than one at right angles."""
_QUALITY_STRENGTH: Final = 0.5
"""Log of how much more attractive an item one standard deviation better is, to everybody."""
_MEAN_ATTRACTION: Final = 0.06
_MAX_ATTRACTION: Final = 0.9
_STAPLES: Final = 1 / 3


@dataclass(frozen=True, kw_only=True)
class World:
    """A shop with known truth. Rows of items and users count from 0, those of newcomers last."""

    settings: WorldSettings
    item_factors: Floats
    """(items, factors) float64, of length 1."""
    item_categories: Ints
    """(items,) int64, into CATEGORIES."""
    item_quality: Floats
    """(items,) float64: how attractive the item is to everybody."""
    item_intent: Floats
    """(items,) float64: probability that a click leads into the cart, where the price fits the budget."""
    prices: Floats
    """(items,) float64, in CURRENCY."""
    items_arrive: Ints
    """(items,) int64: the day on which the item is there; 0 if it was there before."""
    tastes: Floats
    """(users, factors) float64, of length 1, on day 0."""
    drifts: Floats
    """(users, factors) float64: the direction that the tastes turn to, of length 1 and at right angles to `tastes`."""
    activity: Floats
    """(users,) float64: probability of a visit on a day, of a user who is satisfied."""
    budgets: Floats
    """(users,) float64: the price from which on the user hesitates, in CURRENCY."""
    countries: Ints
    """(users,) int64, into COUNTRIES."""
    users_arrive: Ints
    """(users,) int64."""
    scale: float
    """Factor of all attractions, which makes their mean _MEAN_ATTRACTION."""

    @property
    def num_items(self) -> int:
        """Items, newcomers included."""
        return len(self.prices)

    @property
    def num_users(self) -> int:
        """Users, newcomers included."""
        return len(self.budgets)

    def liking(self, user: int, day: int) -> Floats:
        """(items,) float64: log of the attraction, up to a constant."""
        angle = self.settings.drift * day
        taste = np.cos(angle) * self.tastes[user] + np.sin(angle) * self.drifts[user]
        liking: Floats = _TASTE_STRENGTH * (self.item_factors @ taste) + _QUALITY_STRENGTH * self.item_quality
        return liking

    def attraction(self, user: int, day: int) -> Floats:
        """(items,) float64: probability that the user clicks the item once it was examined."""
        return np.minimum(self.scale * np.exp(self.liking(user, day)), _MAX_ATTRACTION)

    def cart_rates(self, user: int) -> Floats:
        """(items,) float64: probability that a click leads into the cart."""
        return self.item_intent * np.where(self.prices <= self.budgets[user], 1.0, 0.25)


def item_id(row: int) -> str:
    """Id of an item."""
    return f"item-{row}"


def user_id(row: int) -> str:
    """Id of a user."""
    return f"user-{row}"


def make_world(settings: WorldSettings) -> World:
    """The world of these settings."""
    rng = np.random.default_rng([settings.seed, 0])
    num_items, num_users = settings.items + settings.new_items, settings.users + settings.new_users
    centres = _directions(rng.normal(size=(len(CATEGORIES), _FACTORS)))
    categories = rng.integers(0, len(CATEGORIES), num_items)
    item_factors = _directions(centres[categories] + 0.25 * rng.normal(size=(num_items, _FACTORS)))
    favourites = rng.integers(0, len(CATEGORIES), (num_users, 2))
    tastes = _directions(
        centres[favourites[:, 0]] + 0.6 * centres[favourites[:, 1]] + 0.2 * rng.normal(size=(num_users, _FACTORS))
    )
    towards = rng.normal(size=tastes.shape)
    drifts = _directions(towards - (towards * tastes).sum(axis=1, keepdims=True) * tastes)
    is_staple = rng.random(num_items) < _STAPLES
    world = World(
        settings=settings,
        item_factors=item_factors,
        item_categories=categories,
        item_quality=rng.normal(size=num_items),
        item_intent=np.where(is_staple, rng.uniform(0.4, 0.7, num_items), rng.uniform(0.05, 0.15, num_items)),
        prices=np.round(np.exp(rng.normal(3.0, 0.7, num_items)), 2).astype(np.float64),
        items_arrive=_arrivals(settings.items, settings.new_items, settings.days),
        tastes=tastes,
        drifts=drifts,
        activity=rng.beta(4, 3, num_users),
        budgets=np.exp(rng.normal(3.4, 0.6, num_users)),
        countries=rng.integers(0, len(COUNTRIES), num_users),
        users_arrive=_arrivals(settings.users, settings.new_users, settings.days),
        scale=1.0,
    )
    sample = np.linspace(0, num_users - 1, min(num_users, 200)).astype(int)
    mean = np.mean([np.exp(world.liking(user, 0)).mean() for user in sample])
    return World(**{**vars(world), "scale": float(_MEAN_ATTRACTION / mean)})


def _directions(vectors: Floats) -> Floats:
    directions: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return directions


def _arrivals(known: int, new: int, days: int) -> Ints:
    """Day of arrival: 0 for those known before, then spread evenly over the days after the first."""
    later = 1 + np.arange(new, dtype=np.int64) * max(days - 1, 1) // max(new, 1)
    return np.concatenate([np.zeros(known, np.int64), later])

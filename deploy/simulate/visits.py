"""One visit of one user, over the wire: lists, what the user does with them, and the events that tell the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from deploy.simulate.behaviour import Action, expected_clicks, react, return_rate, satisfied
from deploy.simulate.errors import LoadFailed
from deploy.simulate.ledger import Ledger
from deploy.simulate.world import COUNTRIES, Floats, Ints, World, item_id, user_id
from tandem.client import AsyncTandemClient, Event, EventType, InvalidRequest, Recommendations, TandemError

ANONYMOUS_SHARE: Final = 0.15
"""Share of visits that begin before the user logs in."""
LOGIN_RATE: Final = 0.6
"""Share of them in which the user logs in after the first list."""
_MAX_PAGES: Final = 4
_BROWSE_RATE: Final = 0.3
"""Probability that a user without a click asks for another list; a click adds as much again."""
_RECORD_MS: Final = 10_000.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every visit asks the server for."""

    run: str
    """Part of the ids of sessions and events, so that no two runs share any."""
    seed: int
    scenario: str
    """Of the request; empty: the server's default policy."""
    placements: tuple[str, ...]
    """Of the first list of a visit, of the second and so on; the last one is repeated."""
    num_items: int
    deadline_ms: float


@dataclass(kw_only=True)
class Shopper:
    """A user, as far as visits change them."""

    row: int
    seen: set[int]
    """Items chosen so far."""
    satisfaction: float = 0.5


@dataclass(kw_only=True)
class Shop:
    """What all visits share."""

    world: World
    asked: Asked
    client: AsyncTandemClient
    ledger: Ledger
    popular: Ints
    """(items,) int64, most popular first."""
    rows: dict[str, int] = field(default_factory=dict)
    """Row of every item, by id."""

    def __post_init__(self) -> None:
        self.rows = {item_id(row): row for row in range(self.world.num_items)}


def comes(world: World, shopper: Shopper, day: int, *, seed: int) -> bool:
    """Whether the user visits on this day: newcomers do on the day of their arrival, and not before."""
    arrives = world.users_arrive[shopper.row]
    if arrives > 0 and day <= arrives:
        return bool(day == arrives)
    rng = np.random.default_rng([seed, 2, shopper.row, day])
    return bool(rng.random() < return_rate(world.activity[shopper.row], shopper.satisfaction))


async def visit(shop: Shop, shopper: Shopper, day: int) -> None:
    """One visit. What the user does depends on the seed, the day and the lists alone, so equal answers lead to equal
    visits, however many run at once."""
    world, asked, ledger = shop.world, shop.asked, shop.ledger
    rng = np.random.default_rng([asked.seed, 3, shopper.row, day])
    attraction = world.attraction(shopper.row, day)
    session = f"session-{asked.run}-{shopper.row}-{day}"
    is_anonymous = rng.random() < ANONYMOUS_SHARE
    logs_in = rng.random() < LOGIN_RATE
    recent: list[str] = []
    num_clicks = 0
    ledger.visits += 1
    for page in range(_MAX_PAGES):
        name = "" if is_anonymous else user_id(shopper.row)
        try:
            answer = await shop.client.recommend(
                name,
                num_items=asked.num_items,
                recent_item_ids=recent,
                scenario=asked.scenario,
                context={
                    "placement": asked.placements[min(page, len(asked.placements) - 1)],
                    "sessionId": session,
                    "country": COUNTRIES[world.countries[shopper.row]],
                },
                deadline_ms=asked.deadline_ms,
            )
        except InvalidRequest as error:
            raise LoadFailed(f"the server refuses what every visit asks for: {error}") from error
        except TandemError as error:
            ledger.errors[type(error).__name__] += 1
            break
        rows = [shop.rows.get(shown, -1) for shown in answer.item_ids]
        actions = react(rng, world, shopper.row, rows, attraction)
        ledger.add_answer(world, shopper.row, name or session, answer, rows, attraction, actions)
        _add_alternatives(shop, shopper, attraction, len(rows), day)
        clicked = [action.position for action in actions if action.type is EventType.CLICK]
        recent += [answer.item_ids[position] for position in clicked]
        shopper.seen.update(rows[position] for position in clicked)
        num_clicks += len(clicked)
        is_anonymous = is_anonymous and not logs_in
        # Who has logged in meanwhile did it all under the own name.
        await _record(shop, session if is_anonymous else user_id(shopper.row), answer, actions)
        if rng.random() >= _BROWSE_RATE * (2 if clicked else 1):
            break
    shopper.satisfaction = satisfied(shopper.satisfaction, num_clicks)


async def _record(shop: Shop, name: str, answer: Recommendations, actions: Sequence[Action]) -> None:
    """Tells the server what the user did. Events without a time have the server's."""
    events = [
        Event(
            event_id=f"{answer.request_id}-{number}",
            user_id=name,
            item_id=answer.item_ids[action.position],
            type=action.type,
            value=action.value,
            currency=action.currency,
            request_id=answer.request_id,
            position=action.position,
        )
        for number, action in enumerate(actions)
    ]
    if not events:
        return
    try:
        await shop.client.record_events(events, deadline_ms=_RECORD_MS)
    except TandemError as error:
        shop.ledger.errors[type(error).__name__] += 1
        shop.ledger.events_lost += len(events)
    else:
        shop.ledger.events.update(event.type for event in events)


def _add_alternatives(shop: Shop, shopper: Shopper, attraction: Floats, num_items: int, day: int) -> None:
    """Adds what the best, the most popular and random items that the user has not chosen would have earned."""
    world, found = shop.world, shop.ledger.alternatives
    free = world.items_arrive <= day
    free[list(shopper.seen)] = False
    best = np.argsort(-np.where(free, attraction, -1.0), kind="stable")[:num_items]
    popular = shop.popular[free[shop.popular]][:num_items]
    found["best"] += float(expected_clicks(best.tolist(), attraction).sum())
    found["popular"] += float(expected_clicks(popular.tolist(), attraction).sum())
    found["random"] += float(attraction[free].mean() * expected_clicks([0] * num_items, np.ones(1)).sum())

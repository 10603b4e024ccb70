"""Days of visits against a served stack: `drive` for a command, and `load` for the tests of others."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deploy.simulate.errors import LoadFailed
from deploy.simulate.history import seen_and_popular
from deploy.simulate.ledger import Ledger
from deploy.simulate.settings import WorldSettings
from deploy.simulate.visits import Asked, Shop, Shopper, comes, visit
from deploy.simulate.world import World, item_id, make_world
from deploy.simulate.world_files import described
from tandem.client import AsyncTandemClient, Item, TandemError


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """How a server is driven."""

    address: str
    """As `tandem.client` takes it: grpc://host:port."""
    days: int = 5
    users: int | None = None
    """The first users of the world alone; None: all, newcomers included."""
    max_answers: int | None = None
    """No visit begins after this number of answers; None: no limit."""
    seconds_per_day: float = 0.0
    """Least duration of a simulated day, in real seconds. The server stamps impressions with its own clock, so that
    simulated days follow each other within minutes."""
    rate: float = 100.0
    """Visits that begin per second, at most."""
    concurrency: int = 32
    """Visits at once, at most."""
    scenario: str = ""
    placements: tuple[str, ...] = ("home", "product")
    num_items: int = 10
    deadline_ms: float = 2_000.0
    seed: int = 1
    """Of what users do; the world has its own."""
    ready_seconds: float = 30.0
    api_key: str | None = None


async def drive(
    world: World,
    settings: LoadSettings,
    *,
    on_day: Callable[[int, Ledger], None] = lambda day, ledger: None,  # noqa: ARG005
    stop: asyncio.Event | None = None,
) -> Ledger:
    """Drives a server; returns what happened. `on_day` is called after each day; after `stop` is set, no visit begins.

    Raises LoadFailed if no server answers, or it refuses what every visit asks for.
    """
    ledger = Ledger()
    stop = stop or asyncio.Event()
    seen, popular = seen_and_popular(world)
    number = world.num_users if settings.users is None else min(settings.users, world.num_users)
    shoppers = [Shopper(row=row, seen=seen[row]) for row in range(number)]
    asked = Asked(
        run=uuid.uuid4().hex[:12],
        seed=settings.seed,
        scenario=settings.scenario,
        placements=settings.placements,
        num_items=settings.num_items,
        deadline_ms=settings.deadline_ms,
    )
    try:
        client = AsyncTandemClient(settings.address, api_key=settings.api_key, deadline_ms=settings.deadline_ms)
    except TandemError as error:
        raise LoadFailed(str(error)) from error
    async with client:
        try:
            await client.wait_until_ready(settings.ready_seconds)
        except TandemError as error:
            raise LoadFailed(f"{settings.address} does not answer: {error}") from error
        shop = Shop(world=world, asked=asked, client=client, ledger=ledger, popular=popular)
        for day in range(settings.days):
            ends = time.monotonic() + settings.seconds_per_day
            await _items_arrive(shop, day)
            before = ledger.all.answers
            await _day(shop, shoppers, day, settings, stop)
            on_day(day, ledger)
            if ledger.errors and ledger.all.answers == before:
                failures = ", ".join(f"{number} {name}" for name, number in ledger.errors.items())
                raise LoadFailed(f"{settings.address} answered no visit of day {day + 1}: {failures}")
            if stop.is_set() or _is_enough(ledger, settings):
                break
            if day + 1 < settings.days:
                await asyncio.sleep(max(0.0, ends - time.monotonic()))
    return ledger


async def load(address: str, *, users: int, answers: int, seed: int = 1) -> Ledger:
    """Load for a test: visits of `users` users until `answers` answers were given, or a little more, since visits
    that have begun end. What users do follows from the seed and the answers. Raises LoadFailed."""
    world = make_world(WorldSettings(seed=seed, users=users, items=200, new_users=0, new_items=0))
    return await drive(world, LoadSettings(address=address, days=10_000, max_answers=answers, rate=10_000.0, seed=seed))


async def _items_arrive(shop: Shop, day: int) -> None:
    """Adds the items of this day to the catalogue."""
    if day == 0:
        return
    items = []
    for row in np.flatnonzero(shop.world.items_arrive == day).tolist():
        title, category, price = described(shop.world, row)
        items.append(Item(item_id=item_id(row), title=title, categories=[category], attributes={"price": price}))
    if items:
        try:
            await shop.client.upsert_items(items)
        except TandemError as error:
            shop.ledger.errors[type(error).__name__] += 1


async def _day(shop: Shop, shoppers: list[Shopper], day: int, settings: LoadSettings, stop: asyncio.Event) -> None:
    """The visits of one day, in random order."""
    today = [shopper for shopper in shoppers if comes(shop.world, shopper, day, seed=settings.seed)]
    order = np.random.default_rng([settings.seed, 4, day]).permutation(len(today))
    places = asyncio.Semaphore(settings.concurrency)
    began = time.monotonic()

    async def one(shopper: Shopper) -> None:
        try:
            await visit(shop, shopper, day)
        finally:
            places.release()

    try:
        async with asyncio.TaskGroup() as visits:
            for number, index in enumerate(order.tolist()):
                await asyncio.sleep(max(0.0, began + number / settings.rate - time.monotonic()))
                await places.acquire()
                if stop.is_set() or _is_enough(shop.ledger, settings):
                    break
                visits.create_task(one(today[index]))
    except* LoadFailed as failures:
        failed = failures.exceptions[0]
    else:
        return
    raise failed


def _is_enough(ledger: Ledger, settings: LoadSettings) -> bool:
    return settings.max_answers is not None and ledger.all.answers >= settings.max_answers

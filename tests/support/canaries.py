"""Planted versions of a model, and simulated users, to see what a canary does with them."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from inference_server.canary.plan import Plan
from inference_server.supervisor.operator_socket import Command, ask_server
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import PATIENCE_SECONDS, MlflowRegistry, Server, wait_until
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

USERS: Final = tuple(f"user-{number}" for number in range(4_000))
NUM_ITEMS: Final = 200
SLOW_LAYERS: Final = 1_500
"""Of the slow tower: some tenths of a second a batch."""

CHAMPION: Final = TinySpec(model_version="champion", seed=1)
PLANTED: Final = {
    "empty": TinySpec(model_version="empty", seed=2, unavailable=tuple(range(NUM_ITEMS))),
    "slow": TinySpec(model_version="slow", seed=3, tower_layers=SLOW_LAYERS),
    "nan": TinySpec(model_version="nan", seed=4, user_ids=USERS, nan_users=True),
    "clicks": TinySpec(model_version="clicks", seed=5),
    "good": TinySpec(model_version="good", seed=6),
}
CLICK_RATES: Final = {"clicks": 0.1}
"""Clicks per answer of the versions that users like less."""
CLICK_RATE: Final = 0.4


def register_champion(registry: MlflowRegistry, directory: Path, *, model_name: str) -> str:
    """Registers the champion; returns its number."""
    bundle = build_tiny_bundle(directory / "champion", CHAMPION)
    return registry.register(bundle.directory, model_name=model_name, model_version="champion", alias="champion")


def register_challenger(registry: MlflowRegistry, directory: Path, kind: str, *, model_name: str) -> str:
    """Registers a planted version as the challenger; returns its number."""
    bundle = build_tiny_bundle(directory / kind, PLANTED[kind])
    return registry.register(bundle.directory, model_name=model_name, model_version=kind, alias="challenger")


async def operate(data_dir: Path, name: str, *, plan: Plan | None = None, **fields: object) -> list[str]:
    """Gives a running server a command; returns the lines of its reply, a refusal with "refused: " before it."""
    command = Command(
        name=name,
        by="tester@test",
        plan=None if plan is None else plan.to_json(),
        **fields,  # type: ignore[arg-type]
    )
    return [f"{'' if reply.done else 'refused: '}{reply.text}" async for reply in ask_server(data_dir, command)]


@dataclass
class Seen:
    """What simulated users were answered."""

    answers: int = 0
    errors: int = 0
    by_version: dict[str, set[str]] = field(default_factory=dict)
    """Users by the model version that answered them last."""


@asynccontextmanager
async def traffic(server: Server, *, callers: int = 8, pause_seconds: float = 0.0) -> AsyncIterator[Seen]:
    """Users ask, and click on what they are shown, while the block runs."""
    seen, chance = Seen(), random.Random(7)
    numbers = itertools.count()

    async def call() -> None:
        while True:
            user_id = chance.choice(USERS)
            number = next(numbers)
            recent = [f"item-{number % NUM_ITEMS}", f"item-{(number * 7 + 1) % NUM_ITEMS}"]
            answer = await server.recommend(user_id=user_id, num_items=10, recent_item_ids=recent)
            seen.answers += 1
            for users in seen.by_version.values():
                users.discard(user_id)
            seen.by_version.setdefault(answer.model_version, set()).add(user_id)
            if answer.items and chance.random() < CLICK_RATES.get(answer.model_version, CLICK_RATE):
                await server.stub.RecordEvents(pb.RecordEventsRequest(events=[_click(answer, user_id, number)]))
            await asyncio.sleep(pause_seconds)

    calling = [asyncio.create_task(call()) for _ in range(callers)]
    try:
        yield seen
    finally:
        for task in calling:
            task.cancel()
        results = await asyncio.gather(*calling, return_exceptions=True)
        failures = [result for result in results if not isinstance(result, asyncio.CancelledError)]
        if failures:
            raise failures[0]  # type: ignore[misc]


async def canary_until(
    server: Server, fits: Callable[[pb.Canary], bool], what: str, *, patience_seconds: float = PATIENCE_SECONDS
) -> pb.Canary:
    """Waits until the status of the canary fits, and returns it."""

    async def shown() -> pb.Canary | None:
        canary = (await server.status()).canary
        return canary if canary.experiment and fits(canary) else None

    found: pb.Canary = await wait_until(shown, what, patience_seconds=patience_seconds)
    return found


def _click(answer: pb.RecommendResponse, user_id: str, number: int) -> pb.Event:
    return pb.Event(
        event_id=f"click-{number}",
        user_id=user_id,
        item_id=answer.items[0].item_id,
        type=pb.EVENT_TYPE_CLICK,
        request_id=answer.request_id,
        position=0,
    )

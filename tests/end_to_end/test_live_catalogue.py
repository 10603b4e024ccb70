"""The live catalogue through all programs: an item is upserted over gRPC, encoded, recommended, and removed again.

The data are a checkerboard: a user's right recommendation is the unseen item of their colour. So a new item, which the
model was never trained on, must be the first recommendation to users of its colour and to nobody else.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tandem.v1 import recommendation_pb2 as pb
from tests.support.programs import run_program
from tests.support.serving import Server, serve, server_environment, valkey, wait_until
from tests.support.trained import TrainedModel, train_checkerboard

pytestmark = pytest.mark.process

WHITE_USER, BLACK_USER = "user-0", "user-1"
NUM_WORKERS = 2
WATCH_SECONDS = 2.0
"""How long a removed item is watched: twice the time in which every worker has read the feeds."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train_checkerboard(tmp_path_factory.mktemp("checkerboard"))


@asynccontextmanager
async def feature_sync(environment: dict[str, str]) -> AsyncIterator[None]:
    """Runs `feature_sync run` during the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "feature_sync", "run"), env={**environment, "TANDEM_SYNC_METRICS_PORT": "0"}
    )
    try:
        yield
    finally:
        process.terminate()
        assert await process.wait() == 0


@pytest.fixture
async def server(trained: TrainedModel, tmp_path: Path) -> AsyncIterator[Server]:
    """The trained model served by two workers, with its users published and feature_sync running."""
    async with valkey(tmp_path / "valkey") as store:
        settings = {"registry_uri": trained.registry_uri, "store_url": store.url, "workers": NUM_WORKERS}
        environment = {**os.environ, **server_environment(tmp_path / "data", **settings)}
        await run_program("feature_sync", "publish", "--prepared", str(trained.prepared), environment=environment)
        async with feature_sync(environment), serve(tmp_path / "server", **settings) as running:
            yield running


def item(item_id: str, colour: str, *, available: bool = True) -> pb.Item:
    return pb.Item(item_id=item_id, title=f"A {colour} square", categories=[colour], available=available)


async def upsert(server: Server, *items: pb.Item) -> None:
    answer = await server.stub.UpsertItems(pb.UpsertItemsRequest(items=items))
    assert answer.num_accepted == len(items)


async def first_of(server: Server, **request: object) -> list[str]:
    """Item ids of an answer of three items."""
    return [found.item_id for found in (await server.recommend(num_items=3, **request)).items]


async def holds_at_every_worker(server: Server, condition: Callable[[list[str]], bool], **request: object) -> bool:
    """Whether `condition` holds for the item ids that every worker answers."""
    missing = set(range(1, NUM_WORKERS + 1))
    while missing:
        async with server.connection() as connection:
            answer = await connection.recommend(num_items=3, **request)
            if not condition([found.item_id for found in answer.items]):
                return False
            missing.discard(connection.worker)
    return True


async def stays_away(server: Server, item_id: str, **request: object) -> None:
    """Repeats a request for 2 s; the item must not be recommended."""
    until = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < until:
        assert await holds_at_every_worker(server, lambda ids: item_id not in ids, **request)


async def seconds_until(condition: Callable[[], Awaitable[bool]], what: str) -> float:
    started = time.monotonic()
    await wait_until(condition, what)
    return time.monotonic() - started


@pytest.mark.slow
async def test_a_new_item_reaches_users_of_its_colour_and_is_removed_again(
    server: Server,
) -> None:
    assert "new-white" not in await first_of(server, user_id=WHITE_USER)
    await upsert(server, item("new-white", "white"), item("new-black", "black"))

    async def both_get_their_item() -> bool:
        return await holds_at_every_worker(
            server, lambda ids: ids[0] == "new-white", user_id=WHITE_USER
        ) and await holds_at_every_worker(server, lambda ids: ids[0] == "new-black", user_id=BLACK_USER)

    seconds = await seconds_until(both_get_their_item, "both users get the new item of their colour first")
    print(f"recommended by every worker {seconds:.2f} s after the upsert")

    await upsert(server, item("new-white", "white", available=False))
    await server.stub.DeleteItems(pb.DeleteItemsRequest(item_ids=["new-black"]))

    async def neither_is_recommended() -> bool:
        return await holds_at_every_worker(
            server, lambda ids: "new-white" not in ids, user_id=WHITE_USER
        ) and await holds_at_every_worker(server, lambda ids: "new-black" not in ids, user_id=BLACK_USER)

    seconds = await seconds_until(neither_is_recommended, "neither item is recommended")
    print(f"gone from every worker {seconds:.2f} s after the removal")
    await stays_away(server, "new-white", user_id=WHITE_USER)
    await stays_away(server, "new-black", user_id=BLACK_USER)

    await upsert(server, item("new-white", "white"))
    await seconds_until(
        lambda: holds_at_every_worker(server, lambda ids: ids[0] == "new-white", user_id=WHITE_USER),
        "the item is recommended again",
    )


@pytest.mark.slow
async def test_an_item_of_the_bundle_that_is_deleted_is_never_recommended_again(server: Server) -> None:
    session = {"recent_item_ids": ["item-0", "item-2"]}
    (gone, *_) = await first_of(server, **session)
    await server.stub.DeleteItems(pb.DeleteItemsRequest(item_ids=[gone]))
    await seconds_until(
        lambda: holds_at_every_worker(server, lambda ids: gone not in ids, **session), f"{gone} is gone"
    )
    await stays_away(server, gone, **session)
    assert len(await first_of(server, **session)) == 3

"""The live catalogue through all programs: upserted over gRPC, encoded, searched, recommended; and gone again.

The data are a checkerboard: of the items that a user has not seen, the right one is the one of their colour. So an item
that the model was never trained on is the first answer of the users who chose its neighbours, and of no one else.
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
"""For how long an item must stay away: twice the time in which every worker has looked at the feeds."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train_checkerboard(tmp_path_factory.mktemp("checkerboard"))


@asynccontextmanager
async def feature_sync(environment: dict[str, str]) -> AsyncIterator[None]:
    """`feature_sync run` beside the server."""
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
    """The trained model served by two workers, its users published, feature_sync at work."""
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
    """The ids of an answer of three items."""
    return [found.item_id for found in (await server.recommend(num_items=3, **request)).items]


async def at_every_worker(server: Server, condition: Callable[[list[str]], bool], **request: object) -> bool:
    """Whether a condition holds of what each of the workers answers."""
    missing = set(range(1, NUM_WORKERS + 1))
    while missing:
        async with server.connection() as connection:
            answer = await connection.recommend(num_items=3, **request)
            if not condition([found.item_id for found in answer.items]):
                return False
            missing.discard(connection.worker)
    return True


async def stays_away(server: Server, item_id: str, **request: object) -> None:
    """Asks again and again; the item must not come back."""
    until = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < until:
        assert await at_every_worker(server, lambda ids: item_id not in ids, **request)


async def seconds_until(condition: Callable[[], Awaitable[bool]], what: str) -> float:
    started = time.monotonic()
    await wait_until(condition, what)
    return time.monotonic() - started


@pytest.mark.slow
async def test_an_item_never_trained_on_reaches_the_users_of_its_neighbours_and_leaves_them(
    server: Server,
) -> None:
    assert "new-white" not in await first_of(server, user_id=WHITE_USER)
    await upsert(server, item("new-white", "white"), item("new-black", "black"))

    async def everyone_has_theirs() -> bool:
        return await at_every_worker(
            server, lambda ids: ids[0] == "new-white", user_id=WHITE_USER
        ) and await at_every_worker(server, lambda ids: ids[0] == "new-black", user_id=BLACK_USER)

    seconds = await seconds_until(everyone_has_theirs, "both users are first recommended the new item of their colour")
    print(f"upserted, and recommended by every worker {seconds:.2f} s later")

    await upsert(server, item("new-white", "white", available=False))
    await server.stub.DeleteItems(pb.DeleteItemsRequest(item_ids=["new-black"]))

    async def both_are_gone() -> bool:
        return await at_every_worker(
            server, lambda ids: "new-white" not in ids, user_id=WHITE_USER
        ) and await at_every_worker(server, lambda ids: "new-black" not in ids, user_id=BLACK_USER)

    seconds = await seconds_until(both_are_gone, "neither is recommended any more")
    print(f"removed, and gone from every worker {seconds:.2f} s later")
    await stays_away(server, "new-white", user_id=WHITE_USER)
    await stays_away(server, "new-black", user_id=BLACK_USER)

    await upsert(server, item("new-white", "white"))
    await seconds_until(
        lambda: at_every_worker(server, lambda ids: ids[0] == "new-white", user_id=WHITE_USER),
        "what is available again is recommended again",
    )


@pytest.mark.slow
async def test_an_item_of_the_bundle_that_is_deleted_is_never_recommended_again(server: Server) -> None:
    session = {"recent_item_ids": ["item-0", "item-2"]}
    (gone, *_) = await first_of(server, **session)
    await server.stub.DeleteItems(pb.DeleteItemsRequest(item_ids=[gone]))
    await seconds_until(lambda: at_every_worker(server, lambda ids: gone not in ids, **session), f"{gone} is gone")
    await stays_away(server, gone, **session)
    assert len(await first_of(server, **session)) == 3

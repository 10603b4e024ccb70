"""Reading users from a real Valkey: batches, callers who go, and a store that dies, hangs, or was never there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.ports import free_port
from inference_server.core.breaker import BreakerState
from inference_server.core.degradation import Degraded
from inference_server.store.user_store import StoreFailed, UserStore
from inference_server.telemetry.statistics import Statistics
from tests.support.serving import Valkey, valkey, wait_until

pytestmark = pytest.mark.process


@asynccontextmanager
async def user_store(url: str) -> AsyncIterator[tuple[UserStore, Statistics]]:
    statistics = Statistics()
    store = UserStore(url, statistics)
    await store.start()
    try:
        yield store, statistics
    finally:
        await store.close()


@dataclass(frozen=True)
class Reply:
    """The result of a read of one user's two keys."""

    vector: bytes | None = None
    state: bytes | None = None
    failure: Degraded | None = None


async def fetch(store: UserStore, name: str, *, seconds: float = 30.0) -> Reply:
    """Reads two keys, and gives up after `seconds`, as a caller does: the read goes on without it."""
    reading = store.read([f"v{name}".encode(), f"s{name}".encode()], seconds)
    await asyncio.wait([reading], timeout=seconds)
    if not reading.done():
        return Reply(failure=Degraded.STORE_TIMEOUT)
    try:
        return Reply(*reading.result())
    except StoreFailed as error:
        return Reply(failure=error.reason)


async def until_answered(store: UserStore, name: str) -> None:
    async def answered() -> bool:
        return (await fetch(store, name)).failure is None

    await wait_until(answered, "the store answers")


async def fill(server: Valkey, count: int) -> None:
    async with server.client() as client:
        await client.mset({f"v{number}": f"vector {number}" for number in range(count)})
        await client.mset({f"s{number}": f"state {number}" for number in range(count)})


async def test_everyone_gets_their_own_values(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, _):
        await fill(server, 100)
        names = [*map(str, range(100)), "7", "7", "nobody"]
        replies = await asyncio.gather(*(fetch(store, name) for name in names))
        for name, reply in zip(names[:-1], replies[:-1], strict=True):
            assert reply == Reply(f"vector {name}".encode(), f"state {name}".encode())
        assert replies[-1] == Reply(None, None)


async def test_one_read_is_one_mget(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, _), server.client() as client:
        await fill(server, 20)
        await client.config_resetstat()
        values = await store.read([f"v{number}".encode() for number in range(20)], 30.0)
        assert values == [f"vector {number}".encode() for number in range(20)]
        commands = await client.info("commandstats")
        assert commands["cmdstat_mget"]["calls"] == 1
        assert "cmdstat_get" not in commands


async def test_a_caller_who_gives_up_soon_costs_no_healthy_connection(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, statistics), server.client() as client:
        await fill(server, 1)
        assert (await fetch(store, "0")).failure is None
        connections = (await client.info("clients"))["connected_clients"]
        for _ in range(10):
            impatient = store.read([b"v0"], 0.0)
            assert await impatient == [b"vector 0"], "it is waited for a little all the same"
        assert (await client.info("clients"))["connected_clients"] == connections
        assert statistics.dependencies_up["store"]


async def test_the_breaker_opens_when_reads_fail_and_closes_when_the_store_is_back(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, statistics):
        await server.kill()

        async def opened() -> bool:
            await fetch(store, "1")
            return statistics.breakers["store"] == BreakerState.OPEN

        await wait_until(opened, "the breaker opens")
        assert (await fetch(store, "1")).failure is Degraded.STORE_UNAVAILABLE
        await server.start()
        await wait_until(lambda: statistics.breakers["store"] == BreakerState.CLOSED, "the breaker closes")
        assert (await fetch(store, "1")).failure is None


async def test_a_store_that_hangs_is_waited_for_no_longer_than_allowed(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, statistics):
        server.pause()
        reply = await fetch(store, "1", seconds=0.05)
        assert reply.failure is Degraded.STORE_TIMEOUT
        await wait_until(lambda: not statistics.dependencies_up["store"], "the store is seen to be down")
        server.resume()
        await until_answered(store, "1")
        await wait_until(lambda: statistics.dependencies_up["store"], "a second later, the store is seen to be up")


async def test_replies_never_reach_the_wrong_caller_after_a_timeout(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, statistics):
        await fill(server, 50)
        for round_number in range(3):
            server.pause()
            late = await asyncio.gather(*(fetch(store, str(number), seconds=0.02) for number in range(25)))
            assert {reply.failure for reply in late} == {Degraded.STORE_TIMEOUT}, round_number
            # Long enough for the reads that were given up to time out, and for the breaker to open.
            await wait_until(lambda: not statistics.dependencies_up["store"], "the reads have timed out")
            server.resume()
            await until_answered(store, "1")
            for number in range(25, 50):
                reply = await fetch(store, str(number))
                assert reply == Reply(f"vector {number}".encode(), f"state {number}".encode()), round_number


async def test_a_killed_store_is_a_reply_and_its_return_is_noticed(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, statistics):
        await fill(server, 2)
        assert (await fetch(store, "1")).failure is None
        await server.kill()
        assert (await fetch(store, "1")).failure is Degraded.STORE_UNAVAILABLE
        assert not statistics.dependencies_up["store"]
        await server.start()

        async def answers() -> bool:
            return (await fetch(store, "1")).vector == b"vector 1"

        await wait_until(answers, "the store answers again")
        await wait_until(lambda: statistics.dependencies_up["store"], "a second later, the store is seen to be up")


async def test_a_store_that_was_never_there_is_a_reply() -> None:
    async with user_store(f"redis://127.0.0.1:{free_port()}/0") as (store, statistics):
        replies = await asyncio.gather(*(fetch(store, str(number)) for number in range(10)))
        assert {reply.failure for reply in replies} == {Degraded.STORE_UNAVAILABLE}
        assert not statistics.dependencies_up["store"]


async def test_a_store_that_refuses_us_is_a_reply(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server:
        async with server.client() as client:
            await client.config_set("requirepass", "secret")
        async with user_store(server.url) as (store, _):
            assert (await fetch(store, "1")).failure is Degraded.STORE_UNAVAILABLE
        async with user_store(server.url.replace("127.0.0.1", ":secret@127.0.0.1")) as (store, _):
            await until_answered(store, "1")


def test_an_url_that_cannot_be_parsed_is_refused() -> None:
    with pytest.raises(ValueError, match="db"):
        UserStore("unix://x?db=many", Statistics())

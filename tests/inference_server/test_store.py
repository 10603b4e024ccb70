"""Reading users from a real Valkey: batches, callers who go, and a store that dies, hangs, or was never there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.local.ports import free_port
from inference_server.degradation import Degraded
from inference_server.statistics import Statistics
from inference_server.store import StoreReply, UserStore
from tests.support.serving import Valkey, valkey, wait_until


@asynccontextmanager
async def user_store(url: str) -> AsyncIterator[tuple[UserStore, Statistics]]:
    statistics = Statistics()
    store = UserStore(url, statistics)
    await store.start()
    try:
        yield store, statistics
    finally:
        await store.close()


async def fetch(store: UserStore, name: str, *, seconds: float = 30.0) -> StoreReply:
    return await store.fetch(f"v{name}".encode(), f"s{name}".encode(), give_up_at=time.monotonic() + seconds)


async def fill(server: Valkey, count: int) -> None:
    async with server.client() as client:
        await client.mset({f"v{number}": f"vector {number}" for number in range(count)})
        await client.mset({f"s{number}": f"state {number}" for number in range(count)})


async def test_everyone_gets_their_own_values_over_few_reads(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, statistics):
        await fill(server, 100)
        names = [*map(str, range(100)), "7", "7", "nobody"]
        replies = await asyncio.gather(*(fetch(store, name) for name in names))
        for name, reply in zip(names[:-1], replies[:-1], strict=True):
            assert reply == StoreReply(f"vector {name}".encode(), f"state {name}".encode())
        assert replies[-1] == StoreReply(None, None)
        assert statistics.batch_requests.count <= 3
        assert statistics.batch_requests.total == len(names)


async def test_one_batch_is_one_mget_of_two_keys_per_user(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, _), server.client() as client:
        await client.config_resetstat()
        await asyncio.gather(*(fetch(store, str(number)) for number in range(20)))
        commands = await client.info("commandstats")
        assert commands["cmdstat_mget"]["calls"] <= 2
        assert "cmdstat_get" not in commands


async def test_callers_who_have_gone_are_not_asked_for(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, statistics):
        server.pause()
        # Both connections wait for the paused store, so these callers wait for a batch.
        leading = []
        for number in range(2):
            leading.append(asyncio.create_task(fetch(store, f"first {number}")))
            await wait_until(lambda sent=number: statistics.batch_requests.count == sent + 1, "the batch is sent")
        waiting = [asyncio.create_task(fetch(store, str(number))) for number in range(10)]
        await asyncio.sleep(0)
        for task in waiting[:9]:
            task.cancel()
        await asyncio.gather(*waiting[:9], return_exceptions=True)
        server.resume()
        await asyncio.gather(*leading, waiting[9])
        assert statistics.batch_requests.total == 3


async def test_a_store_that_hangs_is_waited_for_no_longer_than_allowed(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, statistics):
        server.pause()
        reply = await fetch(store, "1", seconds=0.05)
        assert reply.failure is Degraded.STORE_TIMEOUT
        await wait_until(lambda: not statistics.dependencies_up["store"], "the store is seen to be down")
        server.resume()
        await wait_until(lambda: statistics.dependencies_up["store"], "the store is seen to be up")
        assert (await fetch(store, "1")).failure is None


async def test_replies_never_reach_the_wrong_caller_after_a_timeout(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, user_store(server.url) as (store, _):
        await fill(server, 50)
        for round_number in range(3):
            server.pause()
            late = await asyncio.gather(*(fetch(store, str(number), seconds=0.02) for number in range(25)))
            assert {reply.failure for reply in late} == {Degraded.STORE_TIMEOUT}
            server.resume()
            for number in range(25, 50):
                reply = await fetch(store, str(number))
                assert reply == StoreReply(f"vector {number}".encode(), f"state {number}".encode()), round_number


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
        assert statistics.dependencies_up["store"]


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
            assert (await fetch(store, "1")).failure is None


def test_an_url_that_cannot_be_parsed_is_refused() -> None:
    with pytest.raises(ValueError, match="db"):
        UserStore("unix://x?db=many", Statistics())

"""The server while its store is killed, hangs, returns, or was never there: every caller gets an answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from deploy.local.ports import free_port
from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import Server, serve, valkey, wait_until
from tests.support.tiny_bundle import state_of

pytestmark = pytest.mark.process

RETRIEVED = pb.RECOMMENDATION_SOURCE_RETRIEVED
CACHED = pb.RECOMMENDATION_SOURCE_CACHED
POPULAR = pb.RECOMMENDATION_SOURCE_POPULAR


async def until_personal(server: Server) -> None:
    async def personal() -> bool:
        response = await server.recommend(user_id="u")
        return response.source == RETRIEVED and not response.degraded_reasons

    await wait_until(personal, "answers are personal again")


async def test_a_killed_store_degrades_and_its_return_is_noticed_without_a_restart(
    tmp_path: Path, bundle: Bundle
) -> None:
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(tmp_path / "server", bundle_path=bundle.directory, store_url=store.url) as server,
    ):
        await store.put("u", state_of(["item-1"]))
        await until_personal(server)
        known = await server.recommend(user_id="u", num_items=20)
        await store.kill()
        for _ in range(3):
            response = await server.recommend(user_id="u", num_items=20)
            assert (response.source, list(response.degraded_reasons)) == (CACHED, ["store_unavailable"])
            assert [item.item_id for item in response.items] == [item.item_id for item in known.items]
        response = await server.recommend(user_id="never answered before")
        assert (response.source, list(response.degraded_reasons)) == (POPULAR, ["store_unavailable"])
        assert len(response.items) == 10

        response = await server.recommend(user_id="u", recent_item_ids=["item-1"])
        assert (response.source, list(response.degraded_reasons)) == (RETRIEVED, ["store_unavailable"])
        assert "item-1" not in [item.item_id for item in response.items]

        response = await server.recommend(num_items=3)
        assert list(response.degraded_reasons) == [], "an anonymous caller needs no store"

        status = await server.status()
        assert status.dependencies["store"] == "down"
        assert status.degraded_by_reason["store_unavailable"] == 5
        assert status.answers_by_source["RECOMMENDATION_SOURCE_CACHED"] == 3
        assert await server.serving_status() == "SERVING"
        assert 'tandem_degraded_total{reason="store_unavailable"} 5.0' in await server.metrics()

        await store.start()
        await until_personal(server)

        async def is_up() -> bool:
            return (await server.status()).dependencies["store"] == "up"

        await wait_until(is_up, "a second after it went down, the store is seen to be up")
        await server.log("store_down")


async def test_a_server_starts_without_its_store(tmp_path: Path, bundle: Bundle) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with serve(tmp_path, bundle_path=bundle.directory, store_url=url) as server:
        response = await server.recommend(user_id="u")
        assert (response.source, list(response.degraded_reasons)) == (POPULAR, ["store_unavailable"])
        assert (await server.status()).dependencies["store"] == "down"


async def test_a_store_that_hangs_costs_its_share_of_the_deadline_alone(tmp_path: Path, bundle: Bundle) -> None:
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(tmp_path / "server", bundle_path=bundle.directory, store_url=store.url, deadline_ms=400) as server,
    ):
        store.pause()
        responses = await asyncio.gather(
            server.recommend(user_id="u"), server.recommend(user_id="u", recent_item_ids=["item-1"])
        )
        assert [(response.source, list(response.degraded_reasons)) for response in responses] == [
            (POPULAR, ["store_timeout"]),
            (RETRIEVED, ["store_timeout"]),
        ]
        store.resume()
        await store.put("u", state_of(["item-1"]))
        await until_personal(server)


async def test_the_breaker_opens_while_the_store_is_down_and_closes_when_it_is_back(
    tmp_path: Path, bundle: Bundle
) -> None:
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(tmp_path / "server", bundle_path=bundle.directory, store_url=store.url) as server,
    ):
        await store.put("u", state_of(["item-1"]))
        await until_personal(server)
        assert (await server.status()).breakers["store"] == "closed"
        assert 'tandem_breaker_state{breaker="store",state="closed"} 1.0' in await server.metrics()
        await store.kill()

        async def opened() -> bool:
            await server.recommend(user_id="u")
            return (await server.status()).breakers["store"] == "open"

        await wait_until(opened, "the breaker opens")
        await store.start()

        async def closed() -> bool:
            return (await server.status()).breakers["store"] == "closed"

        await wait_until(closed, "the breaker closes, with nobody asking")
        assert 'tandem_breaker_state{breaker="store",state="open"} 0.0' in await server.metrics()
        await until_personal(server)


async def test_a_hanging_store_opens_the_breaker_and_everyone_is_answered_within_their_deadline(
    tmp_path: Path, bundle: Bundle
) -> None:
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(tmp_path / "server", bundle_path=bundle.directory, store_url=store.url) as server,
    ):
        await store.put("u", state_of(["item-1"]))
        await until_personal(server)
        store.pause()
        # A call that misses its deadline raises.
        soon = [server.stub.Recommend(pb.RecommendRequest(user_id="u"), timeout=0.2) for _ in range(5)]
        later = [server.stub.Recommend(pb.RecommendRequest(user_id=f"v{number}"), timeout=2.0) for number in range(5)]
        responses = await asyncio.gather(*soon, *later)
        assert all(len(response.items) == 10 for response in responses)
        assert all(
            list(response.degraded_reasons) in (["store_timeout"], ["store_unavailable"], ["deadline"])
            for response in responses
        )
        assert {response.source for response in responses[:5]} == {CACHED}
        assert {response.source for response in responses[5:]} == {POPULAR}

        async def opened() -> bool:
            response = await server.recommend(user_id="u")
            return list(response.degraded_reasons) == ["store_unavailable"]

        await wait_until(opened, "the store is not asked any more")
        assert (await server.status()).breakers["store"] != "closed"
        store.resume()
        await until_personal(server)
        assert (await server.status()).breakers["store"] == "closed"


async def test_a_full_server_refuses_at_once_with_retry_info(tmp_path: Path, bundle: Bundle) -> None:
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(
            tmp_path / "server",
            bundle_path=bundle.directory,
            store_url=store.url,
            max_concurrent_requests=1,
            deadline_ms=60_000,
        ) as server,
    ):
        store.pause()
        calls = {asyncio.create_task(server.recommend(user_id="u")) for _ in range(2)}
        refused, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        error = refused.pop().exception()
        assert isinstance(error, grpc.aio.AioRpcError)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(error)
        assert status is not None
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() > 0
        store.resume()
        assert len((await waiting.pop()).items) == 10
        assert len((await server.recommend(user_id="u")).items) == 10, "the permit came back"

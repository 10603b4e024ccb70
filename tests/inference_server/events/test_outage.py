"""The server while its stream is killed, returns, is full, or was never there: callers get errors, answers go on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from deploy.local.ports import free_port
from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.events.requests import click, clicks, recorded_events
from tests.inference_server.wire_errors import refused
from tests.support.kafka import kafka_broker
from tests.support.serving import PATIENCE_SECONDS, Server, serve, valkey, wait_until
from tests.support.tiny_bundle import state_of

pytestmark = pytest.mark.process

EVENT = {"event_id": "e", "user_id": "u", "item_id": "i", "type": "EVENT_TYPE_CLICK"}


async def until_recorded(server: Server) -> None:
    async def recorded() -> bool:
        try:
            await server.stub.RecordEvents(clicks(1, first=999))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
        return True

    await wait_until(recorded, "events are recorded again")


async def test_a_killed_stream_is_unavailable_in_time_and_keeps_what_it_acknowledged(
    tmp_path: Path, bundle: Bundle
) -> None:
    async with (
        valkey(tmp_path / "store") as store,
        valkey(tmp_path / "stream") as stream,
        serve(tmp_path, bundle_path=bundle.directory, store_url=store.url, events_url=stream.url) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}", timeout=PATIENCE_SECONDS) as client,
    ):
        await store.put("u", state_of(["item-1"]))
        await server.stub.RecordEvents(clicks(500))
        await stream.kill()
        started = time.monotonic()
        for _ in range(5):
            await refused(server.stub.RecordEvents(clicks(1), timeout=2.0), grpc.StatusCode.UNAVAILABLE)
        assert time.monotonic() - started < 10, "each within its deadline"
        response = await client.post("/v1/events", json={"events": [EVENT]})
        assert (response.status_code, response.json()["error"]["status"]) == (503, "UNAVAILABLE")
        status = await server.status()
        assert (status.dependencies["events"], status.dependencies["store"]) == ("down", "up")
        assert status.breakers["events"] != "closed"
        answer = await server.recommend(user_id="u")
        assert (len(answer.items), list(answer.degraded_reasons)) == (10, [])

        await stream.start()
        assert [event.event_id for event in await recorded_events(stream)] == [f"event-{n}" for n in range(500)]
        await until_recorded(server)

        async def is_up() -> bool:
            return (await server.status()).dependencies["events"] == "up"

        await wait_until(is_up, "a second after it went down, the stream is seen to be up")


async def test_a_stream_that_hangs_is_unavailable_before_the_callers_deadline(tmp_path: Path, bundle: Bundle) -> None:
    async with (
        valkey(tmp_path / "store") as store,
        valkey(tmp_path / "stream") as stream,
        serve(tmp_path, bundle_path=bundle.directory, store_url=store.url, events_url=stream.url) as server,
    ):
        await until_recorded(server)
        stream.pause()
        recording = asyncio.ensure_future(
            refused(server.stub.RecordEvents(clicks(1), timeout=PATIENCE_SECONDS), grpc.StatusCode.UNAVAILABLE)
        )
        for _ in range(20):
            answer = await server.recommend(user_id="u")
            assert list(answer.degraded_reasons) == []
        error = await recording
        assert "durable" in (error.details() or "") or "available" in (error.details() or "")
        stream.resume()
        await until_recorded(server)


async def test_a_full_stream_says_when_to_try_again(tmp_path: Path, bundle: Bundle) -> None:
    async with (
        valkey(tmp_path / "store") as store,
        serve(tmp_path, bundle_path=bundle.directory, store_url=store.url, events_max_backlog=5) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}", timeout=PATIENCE_SECONDS) as client,
    ):
        await server.stub.RecordEvents(clicks(5))
        error = await refused(server.stub.RecordEvents(clicks(1)), grpc.StatusCode.RESOURCE_EXHAUSTED)
        retry = error_details_pb2.RetryInfo()
        status = rpc_status.from_call(error)
        assert status is not None
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.seconds == 1
        response = await client.post("/v1/events", json={"events": [EVENT]})
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        assert (await server.stub.UpsertItems(pb.UpsertItemsRequest(items=[pb.Item(item_id="i")]))).num_accepted == 1
        assert len(await recorded_events(store)) == 5
        assert 'tandem_writes_refused_total{reason="backlog"} 2.0' in await server.metrics()


async def test_a_server_starts_and_answers_without_its_stream(tmp_path: Path, bundle: Bundle) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    async with (
        valkey(tmp_path / "store") as store,
        serve(tmp_path, bundle_path=bundle.directory, store_url=store.url, events_url=nobody) as server,
    ):
        assert list((await server.recommend(user_id="u")).degraded_reasons) == []
        await refused(server.stub.RecordEvents(clicks(1)), grpc.StatusCode.UNAVAILABLE)


async def test_a_server_records_in_kafka(tmp_path: Path, bundle: Bundle) -> None:
    with kafka_broker("tansu") as url:
        async with (
            valkey(tmp_path / "store") as store,
            serve(tmp_path, bundle_path=bundle.directory, store_url=store.url, events_url=url) as server,
        ):
            request = pb.RecordEventsRequest(events=[click(number) for number in range(100)])
            response = await server.stub.RecordEvents(request)
            assert response.num_accepted == 100
            assert (await server.status()).dependencies["events"] == "up"

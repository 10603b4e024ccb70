"""Recording events and items with both clients: requests, retries and invalid arguments."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest

from tandem.client import AsyncTandemClient, Event, EventType, Item, OverCapacity, TandemClient, Unavailable
from tandem.client.core import WRITE_DEADLINE_MS
from tandem.client.writes import record_events_request
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.events.requests import recorded_changes, recorded_events
from tests.support.serving import serve, valkey
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle
from tests.tandem.client.both_clients import connected
from tests.tandem.client.scripted_server import answers, fails, scripted

pytestmark = pytest.mark.process

UNAVAILABLE = fails(grpc.StatusCode.UNAVAILABLE)
AT = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
EVENT = Event(
    event_id="e",
    user_id="u",
    item_id="i",
    type=EventType.RATING,
    value=4.5,
    occurred_at=AT,
    request_id="r",
    position=0,
)


async def test_every_argument_is_sent(kind: str) -> None:
    async with scripted(answers(num_accepted=2)) as server, connected(kind, server.address) as client:
        assert await client.record_events([EVENT, Event(user_id="v", item_id="j", type=EventType.CLICK)]) == 2
        item = Item(
            item_id="i", title="T", description="D", categories=["a"], attributes={"n": 1, "t": "x"}, available=False
        )
        assert await client.upsert_items([item, Item(item_id="j")]) == 2
        assert await client.delete_items(["i", "j"]) == 2
    recorded, upserted, deleted = server.attempts
    full, bare = recorded.request.events
    expected = pb.Event(
        event_id="e",
        user_id="u",
        item_id="i",
        type="EVENT_TYPE_RATING",
        value=4.5,
        request_id="r",
        position=0,
    )
    expected.occurred_at.FromDatetime(AT)
    assert full == expected
    assert bare == pb.Event(event_id=bare.event_id, user_id="v", item_id="j", type="EVENT_TYPE_CLICK")
    assert len(bare.event_id) == 32
    attributes: dict[str, Any] = {"n": {"number_value": 1}, "t": {"string_value": "x"}}
    assert list(upserted.request.items) == [
        pb.Item(item_id="i", title="T", description="D", categories=["a"], attributes=attributes, available=False),
        pb.Item(item_id="j", available=True),
    ]
    assert list(deleted.request.item_ids) == ["i", "j"]


async def test_an_event_is_sent_again_under_its_own_id(kind: str) -> None:
    event = Event(user_id="u", item_id="i", type=EventType.CLICK)
    async with scripted(UNAVAILABLE, UNAVAILABLE, answers(num_accepted=1)) as server:
        async with connected(kind, server.address) as client:
            assert await client.record_events([event]) == 1
            await client.record_events([event])
        ids = {attempt.request.events[0].event_id for attempt in server.attempts}
        assert ids == {event.event_id}
        assert len(server.attempts) == 4
    assert Event(user_id="u", item_id="i", type=EventType.CLICK).event_id != event.event_id


async def test_a_full_backlog_is_raised_with_its_delay(kind: str) -> None:
    full = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_seconds=30.0)
    async with scripted(full) as server, connected(kind, server.address) as client:
        with pytest.raises(OverCapacity) as caught:
            await client.record_events([EVENT], deadline_ms=5000)
    assert caught.value.retry_after_seconds == 30.0


@pytest.mark.parametrize("client", [TandemClient, AsyncTandemClient])
def test_writes_have_their_own_deadline(client: type[TandemClient] | type[AsyncTandemClient]) -> None:
    for method in (client.record_events, client.upsert_items, client.delete_items):
        assert inspect.signature(method).parameters["deadline_ms"].default == WRITE_DEADLINE_MS


async def test_invalid_arguments_are_errors(kind: str) -> None:
    async with scripted(UNAVAILABLE) as server, connected(kind, server.address) as client:
        with pytest.raises(ValueError, match=r"^events\[0\]\.occurred_at: a time with a time zone"):
            await client.record_events(
                [Event(user_id="u", item_id="i", type=EventType.CLICK, occurred_at=AT.replace(tzinfo=None))]
            )
        for wrong in (True, None, ["x"]):
            with pytest.raises(TypeError, match=r"^items\[0\]\.attributes\[.new.\]: a text or a number"):
                await client.upsert_items([Item(item_id="i", attributes={"new": wrong})])  # type: ignore[dict-item]
        with pytest.raises(TypeError, match=r"^items\[0\]\.categories: a list of texts"):
            await client.upsert_items([Item(item_id="i", categories="drama")])
        with pytest.raises(TypeError, match=r"^item_ids: a list of texts"):
            await client.delete_items("i")
        assert server.attempts == []


def test_a_time_of_another_zone_is_the_same_time() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=5)))
    request = record_events_request([Event(user_id="u", item_id="i", type=EventType.CLICK, occurred_at=elsewhere)])
    assert request.events[0].occurred_at.ToDatetime(tzinfo=UTC) == AT


async def test_a_real_server_records(kind: str, tmp_path: Path) -> None:
    bundle = build_tiny_bundle(tmp_path / "bundle", TinySpec())
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(tmp_path, bundle_path=bundle.directory, store_url=store.url) as server,
        connected(kind, f"grpc://127.0.0.1:{server.grpc_port}") as client,
    ):
        assert await client.record_events([EVENT]) == 1
        assert await client.upsert_items([Item(item_id="i", attributes={"year": 1995})]) == 1
        assert await client.delete_items(["i"]) == 1
        (event,) = await recorded_events(store)
        assert (event.event_id, event.type, event.occurred_at) == ("e", "rating", int(AT.timestamp() * 1e6))
        changes = await recorded_changes(store)
        assert [(change.deleted, dict(change.attributes)) for change in changes] == [
            (False, {"year": "1995"}),
            (True, {}),
        ]
        await store.kill()
        with pytest.raises(Unavailable):
            await client.record_events([EVENT], deadline_ms=1000)

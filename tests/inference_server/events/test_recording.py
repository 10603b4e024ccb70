"""RecordEvents, UpsertItems and DeleteItems of a real server that has no model yet, over gRPC and over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict

from tandem.contract.streams import Event, ItemChange
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.events.requests import click, clicks, recorded_changes, recorded_events
from tests.inference_server.supervisor.test_lifecycle import SERVICE, grpcurl, run
from tests.inference_server.wire_errors import refused, refused_field
from tests.support.serving import PATIENCE_SECONDS, MlflowRegistry, Server, Valkey, serve, valkey, wait_until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

EVENT = {"event_id": "e", "user_id": "u", "item_id": "i", "type": "EVENT_TYPE_CLICK"}
RATING = {
    **EVENT,
    "type": "EVENT_TYPE_RATING",
    "value": 4.5,
    "occurred_at": "2020-01-02T03:04:05.678901+02:00",
    "request_id": "r",
    "position": 3,
}
ITEM = {
    "item_id": "i",
    "title": "Ein Titel",
    "description": "…",
    "categories": ["a"],
    "attributes": {"year": 1995, "price": 4.5, "colour": "red"},
    "available": False,
}
FIRST_OF_2020 = 1_577_927_045_678_901


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path_factory.mktemp("events")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory, registry: MlflowRegistry, store: Valkey
) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("recording")
    settings = {"registry_uri": registry.uri, "model_name": "nobody-trained", "store_url": store.url}
    async with serve(folder, until_serving=False, **settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}", timeout=PATIENCE_SECONDS) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def empty(store: Valkey) -> Valkey:
    """The store with nothing in its streams."""
    async with store.client() as emptied:
        await emptied.flushall()
    return store


async def test_events_are_in_the_stream_when_the_call_is_answered(server: Server, empty: Valkey) -> None:
    response = await server.stub.RecordEvents(clicks(1000))
    assert response.num_accepted == 1000
    events = await recorded_events(empty)
    assert [event.event_id for event in events] == [f"event-{number}" for number in range(1000)]
    await server.stub.RecordEvents(clicks(1000))
    assert len(await recorded_events(empty)) == 2000, "a repeated event is appended again, and dropped by its readers"


@pytest.mark.parametrize("event", [EVENT, RATING], ids=lambda event: event["type"])
async def test_events_over_http_are_those_over_grpc(
    server: Server, client: httpx.AsyncClient, empty: Valkey, event: dict[str, Any]
) -> None:
    payload = {"events": [event, event]}
    assert (await client.post("/v1/events", json=payload)).raise_for_status().json() == {"num_accepted": 2}
    await server.stub.RecordEvents(ParseDict(payload, pb.RecordEventsRequest()))
    same = [replace(recorded, received_at=0, occurred_at=0) for recorded in await recorded_events(empty)]
    assert same == [same[0]] * 4
    recorded = (await recorded_events(empty))[0]
    expected = {**event, "type": event["type"].removeprefix("EVENT_TYPE_").lower(), "received_at": recorded.received_at}
    expected["occurred_at"] = FIRST_OF_2020 if "occurred_at" in event else recorded.received_at
    assert recorded == Event(**expected)


async def test_items_over_http_are_those_over_grpc(server: Server, client: httpx.AsyncClient, empty: Valkey) -> None:
    payload = {"items": [ITEM, {"item_id": "bare"}]}
    assert (await client.put("/v1/items", json=payload)).raise_for_status().json() == {"num_accepted": 2}
    await server.stub.UpsertItems(ParseDict(payload, pb.UpsertItemsRequest()))
    removal = {"item_ids": ["i"]}
    assert (await client.post("/v1/items/delete", json=removal)).raise_for_status().json() == {"num_accepted": 1}
    await server.stub.DeleteItems(pb.DeleteItemsRequest(**removal))
    changes = [replace(change, changed_at=0) for change in await recorded_changes(empty)]
    full = ItemChange(
        item_id="i",
        changed_at=0,
        available=False,
        title="Ein Titel",
        description="…",
        categories=("a",),
        attributes={"year": "1995", "price": "4.5", "colour": "red"},
    )
    bare = ItemChange(item_id="bare", changed_at=0)
    removed = ItemChange(item_id="i", changed_at=0, deleted=True)
    assert changes == [full, bare, full, bare, removed, removed]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (("events", {"events": []}), "events"),
        (("events", {"events": [EVENT, {**EVENT, "item_id": "x" * 257}]}), "events[1].item_id"),
        (("events", {"events": [EVENT, {**EVENT, "user_id": "ü" * 129}]}), "events[1].user_id"),
        (("events", {"events": [EVENT, {**EVENT, "type": "EVENT_TYPE_UNSPECIFIED"}]}), "events[1].type"),
        (("events", {"events": [{**EVENT, "value": 1}]}), "events[0].value"),
        (("events", {"events": [{**EVENT, "occurred_at": "2999-01-01T00:00:00Z"}]}), "events[0].occurred_at"),
        (("events", {"events": [{**EVENT, "occurred_at": "1969-12-31T23:59:59Z"}]}), "events[0].occurred_at"),
        (("events", {"events": [{**EVENT, "position": -1}]}), "events[0].position"),
        (("items", {"items": [{**ITEM, "categories": ["a", ""]}]}), "items[0].categories[1]"),
        (("items", {"items": [{**ITEM, "attributes": {"new": True}}]}), "items[0].attributes.new"),
        (("items/delete", {"item_ids": ["i", ""]}), "item_ids[1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_field_refuses_the_whole_call(
    server: Server, client: httpx.AsyncClient, empty: Valkey, call: tuple[str, dict[str, Any]], field: str
) -> None:
    path, payload = call
    method = "PUT" if path == "items" else "POST"
    response = await client.request(method, f"/v1/{path}", json=payload)
    assert response.status_code == 400
    assert response.json()["error"]["field"] == field
    over_grpc, request = {
        "events": (server.stub.RecordEvents, pb.RecordEventsRequest()),
        "items": (server.stub.UpsertItems, pb.UpsertItemsRequest()),
        "items/delete": (server.stub.DeleteItems, pb.DeleteItemsRequest()),
    }[path]
    assert await refused_field(over_grpc(ParseDict(payload, request))) == field  # type: ignore[operator]
    assert await recorded_events(empty) == []
    assert await recorded_changes(empty) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"events": [{**EVENT, "type": "CLICK"}]}, "events[0].type"),
        ({"events": [{**EVENT, "type": 2}]}, "events[0].type"),
        ({"events": [{**EVENT, "occurred_at": "yesterday"}]}, "events[0].occurred_at"),
        ({"events": [{**EVENT, "occurred_at": "2023-02-30T00:00:00Z"}]}, "events[0].occurred_at"),
        ({"events": [{key: value for key, value in EVENT.items() if key != "user_id"}]}, "events[0].user_id"),
        ({"events": [{**EVENT, "userId": "u"}]}, "events[0].userId"),
        ({"evnets": []}, "evnets"),
        ({}, "events"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_malformed_body_is_400_and_names_the_place(
    client: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    response = await client.post("/v1/events", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["field"] == field


async def test_grpcurl_records(server: Server, empty: Valkey) -> None:
    request = json.dumps({"events": [RATING]})
    address = f"127.0.0.1:{server.grpc_port}"
    status, output, errors = await run(grpcurl(), "-plaintext", "-d", request, address, f"{SERVICE}/RecordEvents")
    assert status == 0, errors
    assert json.loads(output) == {"num_accepted": 1}
    (event,) = await recorded_events(empty)
    assert (event.type, event.value, event.occurred_at) == ("rating", 4.5, FIRST_OF_2020)


async def test_too_little_time_is_said_so_and_records_nothing(
    server: Server, client: httpx.AsyncClient, empty: Valkey
) -> None:
    response = await client.post("/v1/events", json={"events": [EVENT]}, headers={"x-timeout-ms": "3"})
    assert (response.status_code, response.json()["error"]["status"]) == (504, "DEADLINE_EXCEEDED")
    assert await recorded_events(empty) == []


async def test_writes_are_counted_apart_from_answers(server: Server, empty: Valkey) -> None:
    await server.stub.RecordEvents(pb.RecordEventsRequest(events=[click(1), click(2, type="EVENT_TYPE_PURCHASE")]))
    await refused(server.stub.RecordEvents(pb.RecordEventsRequest()), grpc.StatusCode.INVALID_ARGUMENT)
    await server.stub.DeleteItems(pb.DeleteItemsRequest(item_ids=["a", "b"]))

    async def shown() -> str:
        text = await server.metrics()
        return text if 'tandem_stream_backlog{stream="events"} 2.0' in text else ""

    metrics = await wait_until(shown, "the backlog is shown")
    assert 'tandem_writes_total{code="OK"}' in metrics
    assert 'tandem_writes_total{code="INVALID_ARGUMENT"}' in metrics
    assert 'tandem_events_appended_total{type="purchase"} 1.0' in metrics
    assert 'tandem_events_appended_total{type="item_delete"}' in metrics
    assert 'tandem_stream_backlog{stream="item-changes"} 2.0' in metrics
    assert 'tandem_dependency_up{dependency="events"} 1.0' in metrics
    assert "tandem_append_seconds_count 0.0" not in metrics
    assert 'tandem_requests_total{code="OK"}' not in metrics
    assert (await server.status()).dependencies["events"] == "up"

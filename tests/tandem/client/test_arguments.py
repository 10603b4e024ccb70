"""Arguments that cannot be sent: each is refused by name, and no exception of a library leaves the client."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import pytest

from tandem.client import (
    AttributePredicate,
    ClientClosed,
    Event,
    EventType,
    Filter,
    InvalidArgument,
    InvalidRequest,
    Item,
    Query,
    RetryPolicy,
    TandemClient,
    TandemError,
)
from tandem.client.query import recommend_request
from tandem.client.writes import record_events_request, upsert_items_request
from tandem.v1 import recommendation_pb2 as pb
from tests.tandem.client.both_clients import AnyClient, connected

NOBODY = "grpc://127.0.0.1:1"
EVENT = Event(user_id="u", item_id="i", type=EventType.CLICK)
ITEM = Item(item_id="i")


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text for this")


def values() -> list[Any]:
    """What a program may pass by mistake."""
    return [
        *(None, True, b"bytes", bytearray(b"x"), "\ud800", "\x00", "x" * 10_000, 3.5, -1, 0, 2**31, 2**63, 10**400),
        *(float("nan"), float("inf"), complex(1, 2), object(), Unprintable(), np.float32(1), np.array([1, 2])),
        *([None], [b"x"], ["\ud800"], {1: 2}, {"a": b"x"}, {"a": 10**400}, (number for number in range(3))),
        *(datetime(2024, 1, 1), datetime.min, datetime.max.replace(tzinfo=UTC)),
        *(lambda: None, type, Exception("x"), Query(), EVENT),
    ]


@pytest.mark.parametrize("given", ["click", "CLICK", "Click", EventType.CLICK, "EVENT_TYPE_CLICK", "event_type_click"])
def test_an_event_type_is_taken_in_any_case(given: str) -> None:
    request = record_events_request([dataclasses.replace(EVENT, type=given)])
    assert request.events[0].type == pb.EVENT_TYPE_CLICK


@pytest.mark.parametrize("given", ["clicks", "", "unspecified", None, 2, b"CLICK", "\ud800"])
def test_an_unknown_event_type_lists_what_is_allowed(given: Any) -> None:
    with pytest.raises(InvalidArgument) as failure:
        record_events_request([EVENT, dataclasses.replace(EVENT, type=given)])
    assert failure.value.field == "events[1].type"
    allowed = "one of IMPRESSION, CLICK, ADD_TO_CART, PURCHASE, RATING, DWELL, in any case, not "
    assert failure.value.description == f"{allowed}{given!a}"
    assert failure.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(failure.value, InvalidRequest | ValueError | TypeError)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: recommend_request(Query(user_id=5)), "user_id"),  # type: ignore[arg-type]
        (lambda: recommend_request(Query(user_id="\ud800")), "user_id"),
        (lambda: recommend_request(Query(num_items=2**31)), "num_items"),
        (lambda: recommend_request(Query(num_items=1.5)), "num_items"),  # type: ignore[arg-type]
        (lambda: recommend_request(Query(recent_item_ids=["a", b"b"])), "recent_item_ids[1]"),  # type: ignore[list-item]
        (lambda: recommend_request(Query(context={"a": 1})), "context['a']"),  # type: ignore[dict-item]
        (lambda: recommend_request(Query(diversity="much")), "diversity"),  # type: ignore[arg-type]
        (lambda: recommend_request(Query(filter={"include_categories": []})), "filter"),  # type: ignore[arg-type]
        (
            lambda: recommend_request(Query(filter=Filter(attributes=[AttributePredicate(name="a", min=10**400)]))),
            "filter.attributes[0].min",
        ),
        (lambda: recommend_request(None), "query"),  # type: ignore[arg-type]
        (lambda: record_events_request(None), "events"),  # type: ignore[arg-type]
        (lambda: record_events_request([{"user_id": "u"}]), "events[0]"),  # type: ignore[list-item]
        (lambda: record_events_request([dataclasses.replace(EVENT, value=10**400)]), "events[0].value"),
        (lambda: record_events_request([dataclasses.replace(EVENT, position=2**40)]), "events[0].position"),
        (
            lambda: record_events_request([dataclasses.replace(EVENT, occurred_at=datetime(2024, 1, 1))]),
            "events[0].occurred_at",
        ),
        (lambda: record_events_request([dataclasses.replace(EVENT, occurred_at=17)]), "events[0].occurred_at"),  # type: ignore[arg-type]
        (lambda: upsert_items_request([dataclasses.replace(ITEM, attributes={"a": None})]), "items[0].attributes['a']"),
        (lambda: upsert_items_request([dataclasses.replace(ITEM, available="yes")]), "items[0].available"),  # type: ignore[arg-type]
        (lambda: RetryPolicy(max_attempts="3"), "max_attempts"),  # type: ignore[arg-type]
        (lambda: TandemClient(None), "address"),  # type: ignore[arg-type]
        (lambda: TandemClient(NOBODY, deadline_ms="soon"), "deadline_ms"),  # type: ignore[arg-type]
        (lambda: TandemClient(NOBODY, api_key=b"key"), "api_key"),  # type: ignore[arg-type]
        (lambda: TandemClient(NOBODY, retry=3), "retry"),  # type: ignore[arg-type]
        (lambda: TandemClient("grpcs://a:1", root_certificates=7), "root_certificates"),  # type: ignore[arg-type]
    ],
)
def test_the_error_names_the_argument(make: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        make()
    assert failure.value.field == field
    assert str(failure.value).startswith(f"{field}: ")
    assert failure.value.num_attempts == 0


def test_numbers_of_other_libraries_are_numbers() -> None:
    assert recommend_request(Query(num_items=np.int64(3), diversity=np.float32(0.5))).num_items == 3  # type: ignore[arg-type]


def _queries(value: Any) -> Iterable[Query]:
    for field in dataclasses.fields(Query):
        yield dataclasses.replace(Query(), **{field.name: value})
    for field in dataclasses.fields(Filter):
        yield Query(filter=dataclasses.replace(Filter(), **{field.name: value}))
    for field in dataclasses.fields(AttributePredicate):
        predicate = dataclasses.replace(AttributePredicate(name="a"), **{field.name: value})
        yield Query(filter=Filter(attributes=[predicate]))


def _calls(client: AnyClient, value: Any) -> Iterable[Callable[[], Any]]:
    for query in _queries(value):
        arguments = {field.name: getattr(query, field.name) for field in dataclasses.fields(Query)}
        yield lambda arguments=arguments: client.recommend(**arguments)
    for field in dataclasses.fields(Event):
        yield lambda name=field.name: client.record_events(
            [dataclasses.replace(EVENT, **{name: value})], deadline_ms=50
        )
    for field in dataclasses.fields(Item):
        yield lambda name=field.name: client.upsert_items([dataclasses.replace(ITEM, **{name: value})], deadline_ms=50)
    for method in (client.record_events, client.upsert_items, client.delete_items):
        yield lambda method=method: method(value, deadline_ms=50)
    yield lambda: client.similar_items(value)
    yield lambda: client.similar_items(["a"], num_items=value)
    yield lambda: client.similar_items(["a"], filter=value, explain=value)


@pytest.mark.process
async def test_no_exception_of_a_library_leaves_the_client(kind: str) -> None:
    async with connected(kind, NOBODY, deadline_ms=50, retry=RetryPolicy(max_attempts=1)) as client:
        for value in values():
            for call in _calls(client, value):
                with pytest.raises(TandemError):
                    await call()
        for value in (None, "x", [], -1, 0, float("nan")):
            with pytest.raises(InvalidArgument if value is not None else TandemError):
                await client.recommend("u", deadline_ms=value)
            with pytest.raises(InvalidArgument):
                await client.wait_until_ready(value)
        for wrong in (5, None, "text", [None], [("a", None)], [("a",)], [(1, Query())]):
            # Whether the missing server or the wrong entry is noticed first is open.
            with pytest.raises(TandemError if isinstance(wrong, list) else InvalidArgument):
                async for _ in client.recommend_many(wrong, deadline_ms=2000):  # type: ignore[arg-type]
                    pass
    await asyncio.sleep(0)


@pytest.mark.process
async def test_a_huge_deadline_is_a_deadline() -> None:
    with TandemClient(NOBODY, retry=RetryPolicy(max_attempts=1)) as client, pytest.raises(TandemError):
        await asyncio.to_thread(client.recommend, "u", deadline_ms=1e300)


async def test_a_call_on_a_closed_client(kind: str) -> None:
    async with connected(kind, NOBODY) as client:
        await client.close()
        with pytest.raises(ClientClosed, match="the client is closed"):
            await client.status()

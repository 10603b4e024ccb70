"""Events and items are checked against the API before anything is recorded, and the error names the field."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from inference_server.api.wire_events import number_text, to_events, to_item_changes, to_removals
from inference_server.core.errors import InvalidRequest
from tandem.contract import names
from tandem.contract.streams import NO_POSITION, Event, ItemChange
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.events.requests import click

FIVE_MINUTES = 300


def seconds_ahead(seconds: float) -> dict[str, int]:
    return {"seconds": int(time.time() + seconds)}


def test_an_event_keeps_everything_it_says() -> None:
    wire = pb.Event(
        event_id="e",
        user_id="ü",
        item_id="i",
        type="EVENT_TYPE_RATING",
        value=4.5,
        occurred_at={"seconds": 12, "nanos": 345_678_901},
        request_id="r",
        position=0,
    )
    (event,) = to_events(pb.RecordEventsRequest(events=[wire]))
    assert event == Event(
        event_id="e",
        user_id="ü",
        item_id="i",
        type="rating",
        value=4.5,
        occurred_at=12_345_678,
        received_at=event.received_at,
        request_id="r",
        position=0,
    )
    assert abs(event.received_at / 1e6 - time.time()) < 60


def test_what_an_event_leaves_out_is_now_and_unknown() -> None:
    (event,) = to_events(pb.RecordEventsRequest(events=[click(1)]))
    assert event.occurred_at == event.received_at
    assert (event.position, event.request_id, event.value) == (NO_POSITION, "", 0.0)


def test_every_type_of_the_contract_is_one_of_the_api() -> None:
    for name in names.EVENT_TYPES:
        wire = click(1, type=f"EVENT_TYPE_{name.upper()}", value=1.0 if name in {"rating", "dwell"} else 0.0)
        assert to_events(pb.RecordEventsRequest(events=[wire]))[0].type == name
    assert len(pb.EventType.values()) == len(names.EVENT_TYPES) + 1


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"event_id": ""}, "event_id"),
        ({"event_id": "é" * 129}, "event_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "x" * 257}, "user_id"),
        ({"item_id": ""}, "item_id"),
        ({"item_id": "x" * 257}, "item_id"),
        ({"request_id": "x" * 257}, "request_id"),
        ({"type": "EVENT_TYPE_UNSPECIFIED"}, "type"),
        ({"type": 99}, "type"),
        ({"value": 1.0}, "value"),
        ({"value": math.nan}, "value"),
        ({"type": "EVENT_TYPE_RATING"}, "value"),
        ({"type": "EVENT_TYPE_RATING", "value": 5.01}, "value"),
        ({"type": "EVENT_TYPE_RATING", "value": math.nan}, "value"),
        ({"type": "EVENT_TYPE_DWELL", "value": -1.0}, "value"),
        ({"type": "EVENT_TYPE_DWELL", "value": math.inf}, "value"),
        ({"occurred_at": {"seconds": -1}}, "occurred_at"),
        ({"occurred_at": {"seconds": 1, "nanos": -1}}, "occurred_at"),
        ({"occurred_at": {"seconds": 1, "nanos": 1_000_000_000}}, "occurred_at"),
        ({"position": -1}, "position"),
        ({"type": "EVENT_TYPE_PURCHASE", "value": 9.9}, "currency"),
        ({"type": "EVENT_TYPE_PURCHASE", "value": 9.9, "currency": "eur"}, "currency"),
        ({"type": "EVENT_TYPE_PURCHASE", "value": 0.0, "currency": "EURO"}, "currency"),
        ({"type": "EVENT_TYPE_PURCHASE", "value": -1.0, "currency": "EUR"}, "value"),
        ({"type": "EVENT_TYPE_PURCHASE", "value": math.inf, "currency": "EUR"}, "value"),
        ({"currency": "EUR"}, "currency"),
        ({"type": "EVENT_TYPE_RATING", "value": 3.0, "currency": "EUR"}, "currency"),
    ],
)
def test_a_wrong_event_is_named(fields: dict[str, Any], path: str) -> None:
    request = pb.RecordEventsRequest(events=[click(0), click(1), click(2), click(3, **fields)])
    with pytest.raises(InvalidRequest) as caught:
        to_events(request)
    assert caught.value.field == f"events[3].{path}"


@pytest.mark.parametrize(
    "fields",
    [
        {"event_id": "é" * 128, "user_id": "x" * 256, "item_id": "x" * 256, "request_id": "x" * 256},
        {"type": "EVENT_TYPE_RATING", "value": 1.0},
        {"type": "EVENT_TYPE_PURCHASE"},
        {"type": "EVENT_TYPE_PURCHASE", "value": 19.5, "currency": "EUR"},
        {"type": "EVENT_TYPE_DWELL", "value": 0.0},
        {"occurred_at": {"seconds": 0}},
        {"position": 2**31 - 1},
    ],
)
def test_what_is_just_allowed_is_taken(fields: dict[str, Any]) -> None:
    assert len(to_events(pb.RecordEventsRequest(events=[click(1, **fields)]))) == 1


def test_an_event_may_lie_a_little_in_the_future() -> None:
    soon = click(1, occurred_at=seconds_ahead(FIVE_MINUTES - 60))
    assert len(to_events(pb.RecordEventsRequest(events=[soon]))) == 1
    later = click(1, occurred_at=seconds_ahead(FIVE_MINUTES + 60))
    with pytest.raises(InvalidRequest, match=r"events\[0\]\.occurred_at"):
        to_events(pb.RecordEventsRequest(events=[later]))


@pytest.mark.parametrize("count", [0, 1001])
def test_calls_have_1_to_1000_entries(count: int) -> None:
    for convert, request, field in (
        (to_events, pb.RecordEventsRequest(events=[click(n) for n in range(count)]), "events"),
        (to_item_changes, pb.UpsertItemsRequest(items=[pb.Item(item_id=str(n)) for n in range(count)]), "items"),
        (to_removals, pb.DeleteItemsRequest(item_ids=map(str, range(count))), "item_ids"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            convert(request)  # type: ignore[operator]
        assert caught.value.field == field


def test_an_item_keeps_everything_it_says() -> None:
    wire = pb.Item(
        item_id="i",
        title="T",
        description="D",
        categories=["a", "b"],
        attributes={"year": {"number_value": 1995}, "price": {"number_value": 4.5}, "colour": {"string_value": "red"}},
        available=False,
    )
    (change,) = to_item_changes(pb.UpsertItemsRequest(items=[wire]))
    assert change == ItemChange(
        item_id="i",
        changed_at=change.changed_at,
        available=False,
        title="T",
        description="D",
        categories=("a", "b"),
        attributes={"year": "1995", "price": "4.5", "colour": "red"},
    )
    (change,) = to_item_changes(pb.UpsertItemsRequest(items=[pb.Item(item_id="i")]))
    assert change.available, "an item that does not say otherwise is available"
    assert not change.deleted


def test_of_an_item_that_a_call_has_twice_the_later_entry_is_newer() -> None:
    twice = [pb.Item(item_id="i", title="first"), pb.Item(item_id="i", title="second")]
    first, second = to_item_changes(pb.UpsertItemsRequest(items=twice))
    assert (second.title, second.changed_at) == ("second", first.changed_at + 1)


@pytest.mark.parametrize(
    ("number", "text"), [(0.0, "0"), (-3.0, "-3"), (0.1, "0.1"), (1e300, "1e+300"), (2.0**53, "9007199254740992")]
)
def test_numbers_are_written_as_in_the_item_table(number: float, text: str) -> None:
    assert number_text(number) == text
    assert float(text) == number


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"item_id": ""}, "item_id"),
        ({"item_id": "x" * 257}, "item_id"),
        ({"title": "x" * 1001}, "title"),
        ({"description": "x" * 10_001}, "description"),
        ({"categories": ["a"] * 101}, "categories"),
        ({"categories": ["a", ""]}, "categories[1]"),
        ({"categories": ["x" * 257]}, "categories[0]"),
        ({"attributes": {str(n): {"string_value": ""} for n in range(101)}}, "attributes"),
        ({"attributes": {"": {"string_value": "x"}}}, "attributes"),
        ({"attributes": {"colour": {"string_value": "x" * 257}}}, "attributes.colour"),
        ({"attributes": {"price": {"number_value": math.nan}}}, "attributes.price"),
        ({"attributes": {"new": {"bool_value": True}}}, "attributes.new"),
        ({"attributes": {"new": {"null_value": 0}}}, "attributes.new"),
        ({"attributes": {"new": {}}}, "attributes.new"),
    ],
)
def test_a_wrong_item_is_named(fields: dict[str, Any], path: str) -> None:
    request = pb.UpsertItemsRequest(items=[pb.Item(item_id="i"), pb.Item(**{"item_id": "i", **fields})])
    with pytest.raises(InvalidRequest) as caught:
        to_item_changes(request)
    assert caught.value.field == f"items[1].{path}"


def test_removals_are_changes_too() -> None:
    first, second = to_removals(pb.DeleteItemsRequest(item_ids=["a", "b"]))
    assert (first.item_id, second.item_id) == ("a", "b")
    assert first.deleted
    with pytest.raises(InvalidRequest) as caught:
        to_removals(pb.DeleteItemsRequest(item_ids=["a", ""]))
    assert caught.value.field == "item_ids[1]"

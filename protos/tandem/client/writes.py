"""Events and items to record, and the wire messages for them.

Limits are checked by the server only, as for queries. This module checks what would otherwise be sent as something
other than the caller meant.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from google.protobuf.struct_pb2 import Value

from tandem.client.arguments import flag, instance, integer, invalid, listed, number, pairs, shown, text, texts, time
from tandem.v1 import recommendation_pb2 as pb

_WIRE_PREFIX: Final = "EVENT_TYPE_"


class EventType(StrEnum):
    """The kind of interaction; named as in the API's `EventType`."""

    IMPRESSION = "IMPRESSION"
    """The item was shown."""
    CLICK = "CLICK"
    ADD_TO_CART = "ADD_TO_CART"
    PURCHASE = "PURCHASE"
    RATING = "RATING"
    DWELL = "DWELL"


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, kw_only=True)
class Event:
    """One interaction of a user with an item."""

    user_id: str
    item_id: str
    type: EventType | str
    """An `EventType`, or its name in any case."""
    value: float = 0.0
    """The rating, 1 to 5, the dwell time in milliseconds, or what was paid for a purchase. Unused for other types."""
    currency: str = ""
    """Of a purchase's value, as ISO 4217 names it: "EUR". Needed with it."""
    occurred_at: datetime | None = None
    """When it happened, with a time zone. None: when the server accepts it."""
    request_id: str = ""
    """`Recommendations.request_id` of the answer that showed the item."""
    position: int | None = None
    """0-based position of the item in that answer."""
    event_id: str = field(default_factory=_new_id)
    """Unique id: an event that is recorded twice takes effect once. Default: a random id."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """An item of the catalogue."""

    item_id: str
    title: str = ""
    description: str = ""
    categories: Sequence[str] = ()
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    """Values for filters and policies, by name."""
    available: bool = True
    """False: the item stays in the catalogue but is not recommended."""


def record_events_request(events: Iterable[Event]) -> pb.RecordEventsRequest:
    """The wire message that records events. Raises InvalidArgument."""
    listing = listed("events", events, "Event")
    return pb.RecordEventsRequest(events=[_event(f"events[{index}]", event) for index, event in enumerate(listing)])


def upsert_items_request(items: Iterable[Item]) -> pb.UpsertItemsRequest:
    """The wire message that adds or replaces items. Raises InvalidArgument."""
    listing = listed("items", items, "Item")
    return pb.UpsertItemsRequest(items=[_item(f"items[{index}]", item) for index, item in enumerate(listing)])


def delete_items_request(item_ids: Iterable[str]) -> pb.DeleteItemsRequest:
    """The wire message that removes items. Raises InvalidArgument."""
    return pb.DeleteItemsRequest(item_ids=texts("item_ids", item_ids))


def _event(field: str, event: Event) -> pb.Event:
    instance(field, event, Event)
    wire = pb.Event(
        event_id=text(f"{field}.event_id", event.event_id),
        user_id=text(f"{field}.user_id", event.user_id),
        item_id=text(f"{field}.item_id", event.item_id),
        type=_event_type(f"{field}.type", event.type),
        value=number(f"{field}.value", event.value),
        currency=text(f"{field}.currency", event.currency),
        request_id=text(f"{field}.request_id", event.request_id),
        position=None if event.position is None else integer(f"{field}.position", event.position),
    )
    if event.occurred_at is not None:
        wire.occurred_at.FromDatetime(time(f"{field}.occurred_at", event.occurred_at))
    return wire


def _event_type(field: str, given: EventType | str) -> pb.EventType.ValueType:
    name = given.upper().removeprefix(_WIRE_PREFIX) if isinstance(given, str) else None
    if name not in EventType.__members__:
        raise invalid(field, f"one of {', '.join(EventType)}, in any case, not {shown(given)}")
    return pb.EventType.Value(f"{_WIRE_PREFIX}{name}")


def _item(field: str, item: Item) -> pb.Item:
    instance(field, item, Item)
    return pb.Item(
        item_id=text(f"{field}.item_id", item.item_id),
        title=text(f"{field}.title", item.title),
        description=text(f"{field}.description", item.description),
        categories=texts(f"{field}.categories", item.categories),
        attributes={
            name: _value(f"{field}.attributes[{name!r}]", value)
            for name, value in pairs(f"{field}.attributes", item.attributes)
        },
        available=flag(f"{field}.available", item.available),
    )


def _value(field: str, value: str | float) -> Value:
    if isinstance(value, str):
        return Value(string_value=text(field, value))
    return Value(number_value=number(field, value, what="a text or a number"))

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

from google.protobuf.struct_pb2 import Value

from tandem.v1 import recommendation_pb2 as pb


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
    type: EventType
    value: float = 0.0
    """The rating, 1 to 5, or the dwell time in milliseconds. Unused for other types."""
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
    """The wire message that records events. Raises ValueError for a time without a time zone."""
    return pb.RecordEventsRequest(events=map(_event, events))


def upsert_items_request(items: Iterable[Item]) -> pb.UpsertItemsRequest:
    """The wire message that adds or replaces items. Raises TypeError unless attributes are strings or numbers."""
    return pb.UpsertItemsRequest(items=map(_item, items))


def delete_items_request(item_ids: Iterable[str]) -> pb.DeleteItemsRequest:
    """The wire message that removes items. Raises TypeError for a string instead of a list of strings."""
    if isinstance(item_ids, str):
        raise TypeError(f"item_ids: a list of texts, not the text {item_ids!r}")
    return pb.DeleteItemsRequest(item_ids=item_ids)


def _event(event: Event) -> pb.Event:
    wire = pb.Event(
        event_id=event.event_id,
        user_id=event.user_id,
        item_id=event.item_id,
        type=pb.EventType.Value(f"EVENT_TYPE_{event.type}"),
        value=event.value,
        request_id=event.request_id,
        position=event.position,
    )
    if event.occurred_at is not None:
        if event.occurred_at.tzinfo is None:
            raise ValueError(f"occurred_at: a time with a time zone, not {event.occurred_at}")
        wire.occurred_at.FromDatetime(event.occurred_at)
    return wire


def _item(item: Item) -> pb.Item:
    if isinstance(item.categories, str):
        raise TypeError(f"categories: a list of texts, not the text {item.categories!r}")
    return pb.Item(
        item_id=item.item_id,
        title=item.title,
        description=item.description,
        categories=item.categories,
        attributes={name: _value(name, value) for name, value in item.attributes.items()},
        available=item.available,
    )


def _value(name: str, value: str | float) -> Value:
    if isinstance(value, str):
        return Value(string_value=value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"attributes: {name} must be a text or a number, not {value!r}")
    return Value(number_value=value)

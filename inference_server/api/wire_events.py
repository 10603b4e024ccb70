"""Converts wire messages to the entries of the contract, for gRPC and for JSON over HTTP.

Every rule of the API for a field is checked here, because the programs that read a stream cannot refuse its entries to
the caller. One wrong field refuses the whole call: a caller could not tell which part of a call was recorded.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from inference_server.core.errors import InvalidRequest
from inference_server.request.flow.limits import MAX_IDS, is_too_long
from tandem.contract import names
from tandem.contract.store import MAX_ID_BYTES
from tandem.contract.streams import NO_POSITION, Event, ItemChange
from tandem.v1 import recommendation_pb2 as pb

MAX_ENTRIES: Final = MAX_IDS
"""Maximum number of events, items or ids in one call."""
MAX_TITLE_CHARACTERS: Final = 1000
MAX_DESCRIPTION_CHARACTERS: Final = 10_000
MAX_CATEGORIES: Final = 100
MAX_ATTRIBUTES: Final = 100
MIN_RATING: Final = 1.0
MAX_RATING: Final = 5.0
MAX_SECONDS_AHEAD: Final = 300
"""How far in the future an event's time may lie: callers' clocks differ."""

NOT_A_TIME: Final = "must be an existing time since 1970, in JSON for example 2026-01-31T12:00:00Z"
"""The rule for times, in the words of every protocol."""

_TYPES: Final[Mapping[int, str]] = {
    pb.EventType.Value(f"EVENT_TYPE_{name.upper()}"): name for name in names.EVENT_TYPES
}
_TYPE_NAMES: Final = ", ".join(f"EVENT_TYPE_{name.upper()}" for name in names.EVENT_TYPES)
_RATING: Final = pb.EVENT_TYPE_RATING
_DWELL: Final = pb.EVENT_TYPE_DWELL
_PURCHASE: Final = pb.EVENT_TYPE_PURCHASE
CURRENCY_PATTERN: Final = "[A-Z]{3}"
_CURRENCY: Final = re.compile(CURRENCY_PATTERN)
_SHOWN_CHARACTERS: Final = 16
_MICROSECONDS: Final = 1_000_000
_NANOSECONDS: Final = 1_000_000_000
_LARGEST_WHOLE: Final = 2.0**53
"""A double represents every integer up to here."""
_SHORT: Final = MAX_ID_BYTES // 4
"""Ids of at most this many characters need no further check: a character takes at most four bytes."""
_BYTES: Final = f"at most {MAX_ID_BYTES} bytes of UTF-8"


def to_events(request: pb.RecordEventsRequest) -> list[Event]:
    """The events of a call, received now. Raises InvalidRequest."""
    _check_count("events", request.events)
    now = time.time_ns() // 1000
    return [_to_event(f"events[{index}]", event, now) for index, event in enumerate(request.events)]


def to_item_changes(request: pb.UpsertItemsRequest) -> list[ItemChange]:
    """The item changes of a call, dated now. Raises InvalidRequest."""
    _check_count("items", request.items)
    now = time.time_ns() // 1000
    # One microsecond apart: if a call holds an item twice, the later entry is the newer change.
    return [_to_item_change(f"items[{index}]", item, now + index) for index, item in enumerate(request.items)]


def to_removals(request: pb.DeleteItemsRequest) -> list[ItemChange]:
    """The removals of a call, dated now. Raises InvalidRequest."""
    _check_count("item_ids", request.item_ids)
    now = time.time_ns() // 1000
    for index, item_id in enumerate(request.item_ids):
        _check_id(f"item_ids[{index}]", item_id)
    return [ItemChange(item_id=item_id, changed_at=now, deleted=True) for item_id in request.item_ids]


def _to_event(path: str, wire: pb.Event, now: int) -> Event:
    # Every field is read once: each access to a message creates a new string.
    event_id, user_id, item_id, request_id = wire.event_id, wire.user_id, wire.item_id, wire.request_id
    longest = max(len(event_id), len(user_id), len(item_id), len(request_id))
    if longest > _SHORT or not (event_id and user_id and item_id):
        _check_ids(path, wire)
    event_type, value = wire.type, wire.value
    if event_type not in _TYPES:
        raise InvalidRequest(f"{path}.type", f"must be one of {_TYPE_NAMES}")
    currency = wire.currency
    if value != 0.0 or event_type == _RATING:
        _check_value(f"{path}.value", event_type, value)
    if currency or (value != 0.0 and event_type == _PURCHASE):
        _check_currency(f"{path}.currency", event_type, currency)
    position = wire.position if wire.HasField("position") else NO_POSITION
    if position < 0 and wire.HasField("position"):
        raise InvalidRequest(f"{path}.position", f"must be at least 0, is {position}")
    return Event(
        event_id=event_id,
        user_id=user_id,
        item_id=item_id,
        type=_TYPES[event_type],
        value=value,
        occurred_at=_checked_time(f"{path}.occurred_at", wire.occurred_at, now)
        if wire.HasField("occurred_at")
        else now,
        received_at=now,
        request_id=request_id,
        position=position,
        currency=currency,
    )


def _check_ids(path: str, wire: pb.Event) -> None:
    for name, text in (("event_id", wire.event_id), ("user_id", wire.user_id), ("item_id", wire.item_id)):
        _check_id(f"{path}.{name}", text)
    if is_too_long(wire.request_id):
        raise InvalidRequest(f"{path}.request_id", f"must have {_BYTES}")


def _check_value(path: str, event_type: int, value: float) -> None:
    if event_type == _RATING:
        if not MIN_RATING <= value <= MAX_RATING:
            raise InvalidRequest(path, f"must be in {MIN_RATING:g}..{MAX_RATING:g} for a rating, is {value:g}")
    elif event_type == _DWELL:
        if not (value >= 0.0 and math.isfinite(value)):
            raise InvalidRequest(path, f"must be a number of milliseconds of at least 0, is {value:g}")
    elif event_type == _PURCHASE:
        if not (value >= 0.0 and math.isfinite(value)):
            raise InvalidRequest(path, f"must be an amount of at least 0, is {value:g}")
    elif value != 0.0:
        raise InvalidRequest(path, f"must be absent for this type, is {value:g}")


def _check_currency(path: str, event_type: int, currency: str) -> None:
    if event_type != _PURCHASE:
        raise InvalidRequest(path, f"must be absent for this type, is {currency[:_SHOWN_CHARACTERS]!r}")
    if not _CURRENCY.fullmatch(currency):
        raise InvalidRequest(
            path, f"must be three capital letters (ISO 4217) where value is given, is {currency[:_SHOWN_CHARACTERS]!r}"
        )


def _checked_time(path: str, at: Timestamp, now: int) -> int:
    """Microseconds since 1970."""
    if at.seconds < 0 or not 0 <= at.nanos < _NANOSECONDS:
        raise InvalidRequest(path, NOT_A_TIME)
    microseconds: int = at.seconds * _MICROSECONDS + at.nanos // 1000
    if microseconds > now + MAX_SECONDS_AHEAD * _MICROSECONDS:
        raise InvalidRequest(path, f"must be at most {MAX_SECONDS_AHEAD // 60} minutes in the future")
    return microseconds


def _to_item_change(path: str, item: pb.Item, now: int) -> ItemChange:
    _check_id(f"{path}.item_id", item.item_id)
    for name, text, most in (
        ("title", item.title, MAX_TITLE_CHARACTERS),
        ("description", item.description, MAX_DESCRIPTION_CHARACTERS),
    ):
        if len(text) > most:
            raise InvalidRequest(f"{path}.{name}", f"must have at most {most} characters, has {len(text)}")
    if len(item.categories) > MAX_CATEGORIES:
        raise InvalidRequest(f"{path}.categories", f"must have at most {MAX_CATEGORIES} entries")
    for index, category in enumerate(item.categories):
        _check_id(f"{path}.categories[{index}]", category)
    if len(item.attributes) > MAX_ATTRIBUTES:
        raise InvalidRequest(f"{path}.attributes", f"must have at most {MAX_ATTRIBUTES} entries")
    return ItemChange(
        item_id=item.item_id,
        changed_at=now,
        available=item.available if item.HasField("available") else True,
        title=item.title,
        description=item.description,
        categories=tuple(item.categories),
        attributes={name: _attribute(f"{path}.attributes", name, value) for name, value in item.attributes.items()},
    )


def _attribute(path: str, name: str, value: Value) -> str:
    if not name or is_too_long(name):
        raise InvalidRequest(path, f"a name must have 1 character or more and {_BYTES}")
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        if is_too_long(value.string_value):
            raise InvalidRequest(f"{path}.{name}", f"must have {_BYTES}")
        return value.string_value
    if kind != "number_value" or not math.isfinite(value.number_value):
        raise InvalidRequest(f"{path}.{name}", "must be a string or a finite number")
    return number_text(value.number_value)


def number_text(number: float) -> str:
    """A number as the item table writes it: the wire has only doubles, and 1995.0 is the year 1995."""
    return str(int(number)) if number.is_integer() and abs(number) <= _LARGEST_WHOLE else repr(number)


def _check_count(path: str, values: Sequence[object]) -> None:
    if not 1 <= len(values) <= MAX_ENTRIES:
        raise InvalidRequest(path, f"must have 1 to {MAX_ENTRIES} entries, has {len(values)}")


def _check_id(path: str, text: str) -> None:
    if not text:
        raise InvalidRequest(path, "is empty")
    if is_too_long(text):
        raise InvalidRequest(path, f"must have {_BYTES}")

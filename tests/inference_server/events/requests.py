"""Requests that record, and the entries that they leave in a store's streams."""

from __future__ import annotations

from typing import Any

from tandem.contract.streams import ENTRY_FIELD, EVENTS, ITEM_CHANGES, Event, ItemChange, stream_key
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import Valkey


def click(number: int, **fields: Any) -> pb.Event:
    """A click on an item; `number` makes its event id unique."""
    given = {"event_id": f"event-{number}", "user_id": "u", "item_id": f"item-{number}", "type": "EVENT_TYPE_CLICK"}
    return pb.Event(**{**given, **fields})


def clicks(count: int, first: int = 0) -> pb.RecordEventsRequest:
    return pb.RecordEventsRequest(events=[click(first + number) for number in range(count)])


async def recorded_events(store: Valkey) -> list[Event]:
    """The events in the stream, oldest first."""
    return [Event.from_bytes(value) for value in await _values(store, EVENTS)]


async def recorded_changes(store: Valkey) -> list[ItemChange]:
    """The changes of items in the stream, oldest first."""
    return [ItemChange.from_bytes(value) for value in await _values(store, ITEM_CHANGES)]


async def _values(store: Valkey, stream: str) -> list[bytes]:
    async with store.client() as client:
        return [fields[ENTRY_FIELD] for _, fields in await client.xrange(stream_key(stream))]

"""Events and catalogue changes on disk, as feature_sync keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tandem.contract import names
from tandem.contract.streams import NO_POSITION, AppliedItemChange, Event

EVENTS_SCHEMA = pa.schema(
    [
        (names.EVENT_ID, pa.string()),
        (names.USER_ID, pa.string()),
        (names.ITEM_ID, pa.string()),
        (names.EVENT_TYPE, pa.string()),
        (names.VALUE, pa.float64()),
        (names.TIMESTAMP, pa.int64()),
        (names.RECEIVED_AT, pa.int64()),
        (names.REQUEST_ID, pa.string()),
        (names.POSITION, pa.int32()),
    ]
)
ITEM_CHANGES_SCHEMA = pa.schema(
    [
        (names.ITEM_ID, pa.string()),
        (names.SEQUENCE, pa.int64()),
        (names.SLOT, pa.int64()),
        (names.DELETED, pa.bool_()),
        (names.AVAILABLE, pa.bool_()),
        (names.TITLE, pa.string()),
        (names.DESCRIPTION, pa.string()),
        (names.CATEGORIES, pa.list_(pa.string())),
        (names.ATTRIBUTES, pa.map_(pa.string(), pa.string())),
        (names.CHANGED_AT, pa.int64()),
    ]
)


def event(
    event_id: str, user_id: str, item_id: str, seconds: float, kind: str = "click", *, value: float = 0.0
) -> Event:
    """An event that occurred so many seconds after 1970."""
    at = round(seconds * 1e6)
    return Event(
        event_id=event_id,
        user_id=user_id,
        item_id=item_id,
        type=kind,
        occurred_at=at,
        received_at=at,
        value=value,
        position=NO_POSITION,
    )


def write_events(folder: Path, by_day: Mapping[str, Sequence[Event]]) -> Path:
    """Adds a file to each of the days, YYYY-MM-DD; returns the folder."""
    for day, events in by_day.items():
        rows = [
            {
                names.EVENT_ID: one.event_id,
                names.USER_ID: one.user_id,
                names.ITEM_ID: one.item_id,
                names.EVENT_TYPE: one.type,
                names.VALUE: one.value,
                names.TIMESTAMP: one.occurred_at,
                names.RECEIVED_AT: one.received_at,
                names.REQUEST_ID: one.request_id,
                names.POSITION: one.position,
            }
            for one in events
        ]
        _write(folder, day, pa.Table.from_pylist(rows, schema=EVENTS_SCHEMA))
    return folder


def write_item_changes(folder: Path, by_day: Mapping[str, Sequence[AppliedItemChange]]) -> Path:
    """Adds a file to each of the days, YYYY-MM-DD; returns the folder."""
    for day, changes in by_day.items():
        rows = [
            {
                names.ITEM_ID: one.change.item_id,
                names.SEQUENCE: one.sequence,
                names.SLOT: one.slot,
                names.DELETED: one.change.deleted,
                names.AVAILABLE: one.change.available,
                names.TITLE: one.change.title,
                names.DESCRIPTION: one.change.description,
                names.CATEGORIES: list(one.change.categories),
                names.ATTRIBUTES: list(one.change.attributes.items()),
                names.CHANGED_AT: one.change.changed_at,
            }
            for one in changes
        ]
        _write(folder, day, pa.Table.from_pylist(rows, schema=ITEM_CHANGES_SCHEMA))
    return folder


def _write(folder: Path, day: str, table: pa.Table) -> None:
    of_day = folder / f"{names.DAY_PARTITION}{day}"
    of_day.mkdir(parents=True, exist_ok=True)
    place = len(list(of_day.glob("*.parquet")))
    pq.write_table(table, of_day / f"{place:020}-{place:020}.parquet")

"""Writes the logs of applied entries as Parquet files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from feature_sync.archive.day_files import newest_day
from feature_sync.core.errors import ArchiveUnreadable
from tandem.contract import names
from tandem.contract.streams import EVENTS, ITEM_CHANGES, AppliedItemChange, Event

EVENT_SCHEMA: Final = pa.schema(
    [
        (names.EVENT_ID, pa.string()),
        (names.USER_ID, pa.string()),
        (names.ITEM_ID, pa.string()),
        (names.EVENT_TYPE, pa.string()),
        (names.VALUE, pa.float64()),
        (names.TIMESTAMP, pa.int64()),  # occurred, microseconds since 1970
        (names.RECEIVED_AT, pa.int64()),  # microseconds since 1970
        (names.REQUEST_ID, pa.string()),
        (names.POSITION, pa.int32()),  # -1 if unknown
    ]
)
ITEM_CHANGE_SCHEMA: Final = pa.schema(
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
        (names.CHANGED_AT, pa.int64()),  # microseconds since 1970
    ]
)


def event_row(payload: bytes) -> tuple[Any, ...]:
    """An applied event's values, in the order of EVENT_SCHEMA. Raises StreamEntryError."""
    event = Event.from_bytes(payload)
    return (
        event.event_id,
        event.user_id,
        event.item_id,
        event.type,
        event.value,
        event.occurred_at,
        event.received_at,
        event.request_id,
        event.position,
    )


def item_change_row(payload: bytes) -> tuple[Any, ...]:
    """An applied item change's values, in the order of ITEM_CHANGE_SCHEMA. Raises StreamEntryError."""
    applied = AppliedItemChange.from_bytes(payload)
    change = applied.change
    return (
        change.item_id,
        applied.sequence,
        applied.slot,
        change.deleted,
        change.available,
        change.title,
        change.description,
        change.categories,
        list(change.attributes.items()),
        change.changed_at,
    )


_FORMATS: Final[Mapping[str, tuple[Any, Callable[[bytes], tuple[Any, ...]]]]] = {
    EVENTS: (EVENT_SCHEMA, event_row),
    ITEM_CHANGES: (ITEM_CHANGE_SCHEMA, item_change_row),
}


def write_entries(stream: str, payloads: Sequence[bytes], path: Path) -> None:
    """Writes applied entries of EVENTS or ITEM_CHANGES, one row for each, in order. Raises StreamEntryError."""
    schema, row = _FORMATS[stream]
    columns = zip(*map(row, payloads), strict=True)
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")


def last_archived_sequence(folder: Path) -> int:
    """The highest sequence in an archive of item changes; 0 if nothing is archived.

    Sequences grow from day to day, so only the newest day is read, and of its files only the statistics. Raises
    ArchiveUnreadable or OSError.
    """
    return max(map(_last_sequence, newest_day(folder)), default=0)


def _last_sequence(path: Path) -> int:
    try:
        metadata = pq.read_metadata(path)
        column = metadata.schema.names.index(names.SEQUENCE)
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        return int(max(group.column(column).statistics.max for group in groups))
    except (pa.ArrowException, ValueError, AttributeError) as error:
        raise ArchiveUnreadable(f"{path}: {error}") from error

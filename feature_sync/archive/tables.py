"""Writes the logs of applied entries as Parquet files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_sync.archive.day_files import day_of, newest_day
from feature_sync.core.errors import ArchiveUnreadable
from tandem.contract import impression_table, names
from tandem.contract.impressions import Impression
from tandem.contract.streams import EVENTS, IMPRESSIONS, ITEM_CHANGES, AppliedItemChange, Event

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
        (names.CURRENCY, pa.string()),  # of a purchase's value; empty if nothing was paid
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


_EVENT_FIELDS: Final = (
    *("event_id", "user_id", "item_id", "type", "value", "occurred_at", "received_at", "request_id", "position"),
    "currency",
)
"""The fields of `Event`, in the order of EVENT_SCHEMA."""
_event_fields: Final = attrgetter(*_EVENT_FIELDS)


def event_row(payload: bytes) -> tuple[Any, ...]:
    """An applied event's values, in the order of EVENT_SCHEMA. Raises StreamEntryError."""
    values: tuple[Any, ...] = _event_fields(Event.from_bytes(payload))
    return values


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


def _from_rows(schema: Any, row: Callable[[bytes], tuple[Any, ...]], payloads: Sequence[bytes]) -> Any:
    columns = zip(*map(row, payloads), strict=True) if payloads else [[] for _ in schema]
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


_SCHEMAS: Final[Mapping[str, Any]] = {
    EVENTS: EVENT_SCHEMA,
    ITEM_CHANGES: ITEM_CHANGE_SCHEMA,
    IMPRESSIONS: impression_table.SCHEMA,
}
_TABLES: Final[Mapping[str, Callable[[Sequence[bytes]], Any]]] = {
    EVENTS: partial(_from_rows, EVENT_SCHEMA, event_row),
    ITEM_CHANGES: partial(_from_rows, ITEM_CHANGE_SCHEMA, item_change_row),
    IMPRESSIONS: lambda payloads: impression_table.to_table(map(Impression.from_bytes, payloads)),
}
_ADDED: Final[Mapping[str, Mapping[str, object]]] = {
    EVENTS: {names.CURRENCY: ""},
    ITEM_CHANGES: {},
    IMPRESSIONS: {names.LATENCY_US: None},
}
"""Columns that early files do not have, with the value that their rows have instead."""
_TIMES: Final = (names.TIMESTAMP, names.RECEIVED_AT)


def write_entries(stream: str, payloads: Sequence[bytes], path: Path) -> None:
    """Writes applied entries of a stream, one row for each, in order. Raises StreamEntryError."""
    pq.write_table(_TABLES[stream](payloads), path, compression="zstd")


def rows_of_user(path: Path, user_id: str, *, until: int | None = None, stream: str = EVENTS) -> list[dict[str, Any]]:
    """A user's rows in one file of EVENTS or IMPRESSIONS, by column; with `until` only those that occurred or were
    received up to this moment, microseconds since 1970. Raises ArchiveUnreadable."""
    rows = _read(path, stream)
    found: list[dict[str, Any]] = rows.filter(_is_of_user(rows, user_id, until)).to_pylist(maps_as_pydicts="lossy")
    return found


def write_without_user(path: Path, target: Path, user_id: str, *, until: int, stream: str = EVENTS) -> None:
    """Copies a file without the rows that `rows_of_user` returns. Raises ArchiveUnreadable and OSError."""
    rows = _read(path, stream)
    pq.write_table(rows.filter(pc.invert(_is_of_user(rows, user_id, until))), target, compression="zstd")


def _is_of_user(rows: Any, user_id: str, until: int | None) -> Any:
    is_of_user = pc.equal(rows.column(names.USER_ID), user_id)
    if until is None:
        return is_of_user
    times = [rows.column(name) for name in _TIMES if name in rows.schema.names]
    return pc.and_(is_of_user, pc.less_equal(pc.min_element_wise(*times), until))


def _read(path: Path, stream: str) -> Any:
    schema = _SCHEMAS[stream]
    try:
        rows = pq.ParquetFile(path).read(columns=schema.names)
        # Files that lack a column of today stay in the archive.
        for name, value in _ADDED[stream].items():
            if name not in rows.schema.names:
                rows = rows.append_column(name, pa.repeat(pa.scalar(value, schema.field(name).type), rows.num_rows))
        return rows.cast(schema)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ArchiveUnreadable(f"{path}: {error}") from error


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


class EventTable:
    """Archived events, sorted by user, in the order in which they were applied."""

    def __init__(self, rows: Any) -> None:
        """`rows` has the columns of EVENT_SCHEMA and the day of each row, in the order of application."""
        self._rows = rows.take(pc.sort_indices(rows, [(names.USER_ID, "ascending")]))  # a stable sort
        runs = pc.run_end_encode(self._rows.column(names.USER_ID).combine_chunks())
        ends = runs.run_ends.to_pylist()
        self.users: Mapping[str, tuple[int, int]] = dict(
            zip(runs.values.to_pylist(), zip([0, *ends], ends, strict=False), strict=True)
        )
        """First row and end of each user."""

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __iter__(self) -> Iterator[Event]:
        return (event for event, _ in _events(self._rows))

    def of_user(self, user_id: str) -> list[tuple[Event, str]]:
        """A user's events and their days."""
        start, end = self.users.get(user_id, (0, 0))
        return list(_events(self._rows.slice(start, end - start)))

    def since(self, occurred_at: int) -> Iterator[Event]:
        """Events that occurred at this time or later."""
        return (event for event, _ in _events(self._rows.filter(pc.field(names.TIMESTAMP) >= occurred_at)))

    def ids_received_since(self, received_at: int) -> Iterator[str]:
        """Ids of events that were accepted at this time or later."""
        found = self._rows.filter(pc.field(names.RECEIVED_AT) >= received_at).column(names.EVENT_ID)
        return (chunk_id for chunk in found.chunks for chunk_id in chunk.to_pylist())

    def item_counts(self) -> Counter[tuple[str, str]]:
        """Number of events by item and type."""
        grouped = self._rows.group_by([names.ITEM_ID, names.EVENT_TYPE]).aggregate([([], "count_all")]).to_pylist()
        return Counter({(row[names.ITEM_ID], row[names.EVENT_TYPE]): row["count_all"] for row in grouped})


_DAY: Final = "day"


def read_event_files(files: Sequence[Path]) -> EventTable:
    """The events of these files of an archive. Raises ArchiveUnreadable."""
    tables = [pa.Table.from_arrays([pa.array([], field.type) for field in EVENT_SCHEMA], schema=EVENT_SCHEMA)]
    tables[0] = tables[0].append_column(_DAY, pa.array([], pa.string()))
    for path in files:
        rows = _read(path, EVENTS)
        tables.append(rows.append_column(_DAY, pa.array([day_of(path)] * rows.num_rows, pa.string())))
    return EventTable(pa.concat_tables(tables))


def _events(rows: Any) -> Iterator[tuple[Event, str]]:
    columns = [rows.column(name).to_pylist() for name in (*EVENT_SCHEMA.names, _DAY)]
    for *values, day in zip(*columns, strict=True):
        yield Event(**dict(zip(_EVENT_FIELDS, values, strict=True))), day

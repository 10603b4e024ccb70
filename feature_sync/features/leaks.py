"""Guards against leaks: features of a training row must have been known before its label.

Feast joins by a source's timestamps, so these must be right. Sources are checked before the join: a source without
timestamps, or with rows from the future, does not say when its values were known. The joined rows are checked after it:
each view's `known_at` is joined as a feature, and must lie before the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from feature_sync.core.errors import LeakError
from feature_sync.features.feast_store import View
from feature_sync.features.history import parquet_files
from tandem.contract import names


def check_source(view: View, *, now: int) -> None:
    """Raises LeakError if a view's source cannot be joined by time; `now` is in microseconds."""
    if names.KNOWN_AT not in view.fields:
        raise LeakError(f"view {view.name} has no field {names.KNOWN_AT}: nothing could tell a leak from a feature")
    stamps = {"event": view.event_timestamp, "created": view.created_timestamp}
    for kind, column in stamps.items():
        if not column:
            raise LeakError(f"view {view.name}: its source has no {kind} timestamp")
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        source = parquet_files(view.source)
        try:
            stored = {row[0] for row in database.execute(f"DESCRIBE FROM {source}").fetchall()}
            if missing := sorted({*stamps.values(), names.KNOWN_AT} - stored):
                raise LeakError(f"{view.source}: no column {', '.join(missing)}")
            for column in stamps.values():
                newest = f"max(epoch_us({column}::TIMESTAMPTZ))"
                counted = f"SELECT count(*) FILTER ({column} IS NULL), {newest} FROM {source}"
                num_without, last = database.execute(counted).fetchall()[0]
                if num_without:
                    raise LeakError(f"{view.source}: {num_without} rows have no {column}")
                if last is not None and last > now:
                    raise LeakError(f"{view.source}: {column} {_iso(last)} lies in the future")
        except duckdb.Error as error:
            raise LeakError(f"{view.source}: cannot be read: {str(error).splitlines()[0]}") from error


def check_joined(rows: pa.Table, views: Sequence[str]) -> None:
    """Raises LeakError if a row has a value that was not known before its label's `timestamp`."""
    for view in views:
        known_at = rows.column(f"{view}__{names.KNOWN_AT}")
        leaks = pc.fill_null(pc.greater_equal(known_at, rows.column(names.TIMESTAMP)), False)
        if not pc.any(leaks).as_py():
            continue
        first = rows.filter(leaks).slice(0, 1).to_pylist()[0]
        raise LeakError(
            f"view {view} leaks into {pc.sum(leaks).as_py()} rows: for user {first[names.USER_ID]!r}, item "
            f"{first[names.ITEM_ID]!r} at {_iso(first[names.TIMESTAMP])} it has a value that was known at "
            f"{_iso(first[f'{view}__{names.KNOWN_AT}'])}"
        )


def _iso(microseconds: int) -> str:
    return (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)).isoformat()

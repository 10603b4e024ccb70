"""Prepared data with items, and an archive of events and catalogue changes in the files of feature_sync."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from feature_sync.archive.tables import write_entries
from tandem.contract import names
from tandem.contract.streams import EVENTS, ITEM_CHANGES, AppliedItemChange, Event

START = 883_612_800_000_000
"""1998-01-01, in microseconds since 1970. No feature may depend on the age of the data."""
SECOND = 1_000_000


def write_items(directory: Path, item_ids: Sequence[str], attributes: Mapping[str, str] | None = None) -> None:
    """Adds items.parquet to prepared data."""
    table = {
        names.ITEM_ID: pa.array(item_ids, pa.string()),
        names.TITLE: pa.array([f"Title {item_id}" for item_id in item_ids]),
        names.DESCRIPTION: pa.array(["" for _ in item_ids]),
        names.CATEGORIES: pa.array([["drama"] for _ in item_ids], pa.list_(pa.string())),
        names.ATTRIBUTES: pa.array(
            [list((attributes or {}).items()) for _ in item_ids], pa.map_(pa.string(), pa.string())
        ),
    }
    pq.write_table(pa.table(table), directory / "items.parquet")


def write_events(data_dir: Path, events: Sequence[Event]) -> None:
    """Adds a file of applied events."""
    _write(data_dir, EVENTS, [event.to_bytes() for event in events])


def write_item_changes(data_dir: Path, changes: Sequence[AppliedItemChange]) -> None:
    """Adds a file of applied item changes."""
    _write(data_dir, ITEM_CHANGES, [applied.to_bytes() for applied in changes])


def _write(data_dir: Path, stream: str, entries: Sequence[bytes]) -> None:
    folder = data_dir / stream / f"{names.DAY_PARTITION}2026-01-01"
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.iterdir()))
    write_entries(stream, entries, folder / f"{number:020}-{number:020}.parquet")

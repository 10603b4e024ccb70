"""Archives of events, catalogue changes and impressions, in the files of feature_sync."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from feature_sync.archive.tables import write_entries
from tandem.contract import names
from tandem.contract.impressions import Impression
from tandem.contract.streams import EVENTS, IMPRESSIONS, ITEM_CHANGES, NO_POSITION, AppliedItemChange, Event


def event(
    event_id: str, user_id: str, item_id: str, seconds: float, kind: str = "click", *, value: float = 0.0
) -> Event:
    """An event that occurred `seconds` after 1970."""
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
    """Adds a file of events to every day, YYYY-MM-DD; returns the folder."""
    return _write(folder, EVENTS, by_day)


def write_item_changes(folder: Path, by_day: Mapping[str, Sequence[AppliedItemChange]]) -> Path:
    """Adds a file of changes to every day, YYYY-MM-DD; returns the folder."""
    return _write(folder, ITEM_CHANGES, by_day)


def write_impressions(folder: Path, by_day: Mapping[str, Sequence[Impression]]) -> Path:
    """Adds a file of impressions to every day, YYYY-MM-DD; returns the folder."""
    return _write(folder, IMPRESSIONS, by_day)


def _write(
    folder: Path,
    stream: str,
    by_day: Mapping[str, Sequence[Event] | Sequence[AppliedItemChange] | Sequence[Impression]],
) -> Path:
    for day, entries in by_day.items():
        day_folder = folder / f"{names.DAY_PARTITION}{day}"
        day_folder.mkdir(parents=True, exist_ok=True)
        number = len(list(day_folder.glob("*.parquet")))
        write_entries(
            stream, [entry.to_bytes() for entry in entries], day_folder / f"{number:020}-{number:020}.parquet"
        )
    return folder

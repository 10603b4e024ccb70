"""Archives of impressions and events with known content."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feature_sync.archive.tables import write_entries
from feature_sync.attribution.database import Database
from feature_sync.attribution.question import Question
from tandem.contract.impressions import Impression, ShownArm
from tandem.contract.streams import EVENTS, IMPRESSIONS, Event

DAY = datetime(2026, 3, 10, tzinfo=UTC)
"""The first day of the period in these tests."""
HOUR = 3_600_000_000


def us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


def at(hours: float) -> int:
    """Microseconds since 1970 of a time, in hours after DAY."""
    return us(DAY) + int(hours * HOUR)


def shown(request_id: str, user_id: str, items: str, hours: float = 1.0, **fields: Any) -> Impression:
    """The answer `request_id`, which showed a user the items, one letter each."""
    given: dict[str, Any] = {
        "request_id": request_id,
        "timestamp": at(hours),
        "user_id": user_id,
        "scenario": "home",
        "placement": "top",
        "model_version": "m1",
        "variant": "champion",
        "answer_source": "ranked",
        "item_ids": list(items),
        "sources": ["two_tower"] * len(items),
        "scores": [1.0] * len(items),
        "propensities": [1.0] * len(items),
        **fields,
    }
    return Impression(**given)


def arm(experiment: str, name: str, *, exposed: bool = True) -> ShownArm:
    return ShownArm(experiment, name, exposed)


def event(number: int, user_id: str, item_id: str, hours: float, **fields: Any) -> Event:
    default = Event(
        event_id=f"e{number}",
        user_id=user_id,
        item_id=item_id,
        type="click",
        occurred_at=at(hours),
        received_at=at(hours),
    )
    return dataclasses.replace(default, **fields)


def write(folder: Path, stream: str, entries: Sequence[Event] | Sequence[Impression], *, days: float = 0) -> None:
    """Adds a file to an archive, applied `days` after DAY."""
    applied = DAY + timedelta(days=days)
    day = folder / stream / f"day={applied.date().isoformat()}"
    day.mkdir(parents=True, exist_ok=True)
    number = len(list(day.iterdir()))
    name = f"{us(applied) // 1000:015}_{number:09}-{us(applied) // 1000:015}_{number:09}.parquet"
    write_entries(stream, [entry.to_bytes() for entry in entries], day / name)


def write_both(folder: Path, impressions: Sequence[Impression], events: Sequence[Event]) -> None:
    write(folder, IMPRESSIONS, impressions)
    write(folder, EVENTS, events)


def question(folder: Path, **fields: Any) -> Question:
    """A question about one day, with a window of two days."""
    given: dict[str, Any] = {
        "impressions": folder / IMPRESSIONS,
        "events": folder / EVENTS,
        "start": DAY,
        "end": DAY + timedelta(days=1),
        "window_seconds": 2 * 86_400.0,
        **fields,
    }
    return Question(**given)


def opened(folder: Path, **fields: Any) -> Database:
    return Database(question(folder, **fields), folder)

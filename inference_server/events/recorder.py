"""The three calls that write, over whatever protocol they came.

They need no model, and nothing that answers needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from inference_server.core.errors import DeadlineTooShort
from inference_server.events.group_commit import GroupCommit
from inference_server.events.stream import Batch, Entry
from inference_server.telemetry.statistics import Statistics
from tandem.contract.streams import EVENTS, ITEM_CHANGES, Event, ItemChange

_SECONDS_TO_ANSWER: Final = 0.005
"""What is kept of a caller's time to tell it the outcome."""
_MIN_SECONDS: Final = 0.002
"""Least time in which anything can be appended."""
_UPSERT: Final = "item_upsert"
_DELETE: Final = "item_delete"


class Recorder:
    """Has events and catalogue changes appended."""

    def __init__(self, commit: GroupCommit, statistics: Statistics, *, max_seconds: float) -> None:
        """`max_seconds` caps every caller's deadline."""
        self._commit = commit
        self._statistics = statistics
        self._max_seconds = max_seconds

    async def record_events(self, events: Sequence[Event], time_remaining_seconds: float | None) -> int:
        """Returns how many events are durable now: all of them. Raises RequestError."""
        entries = [Entry(event.user_id.encode(), event.to_bytes()) for event in events]
        await self._append(EVENTS, entries, time_remaining_seconds)
        self._statistics.events_appended.update(Counter(event.type for event in events))
        return len(entries)

    async def change_items(self, changes: Sequence[ItemChange], time_remaining_seconds: float | None) -> int:
        """Returns how many changes are durable now: all of them. Raises RequestError."""
        entries = [Entry(change.item_id.encode(), change.to_bytes()) for change in changes]
        await self._append(ITEM_CHANGES, entries, time_remaining_seconds)
        self._statistics.events_appended.update(Counter(_DELETE if change.deleted else _UPSERT for change in changes))
        return len(entries)

    async def start(self) -> None:
        """Begins to append."""
        await self._commit.start()

    async def close(self) -> None:
        """Ends the connections."""
        await self._commit.close()

    async def _append(self, stream: str, entries: Sequence[Entry], time_remaining_seconds: float | None) -> None:
        allowed = self._max_seconds
        if time_remaining_seconds is not None:
            allowed = min(allowed, time_remaining_seconds - _SECONDS_TO_ANSWER)
        if allowed < _MIN_SECONDS:
            raise DeadlineTooShort("too little time is left to record anything")
        await self._commit.append(Batch(stream, entries), allowed)

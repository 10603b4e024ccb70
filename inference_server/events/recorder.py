"""The three calls that write events and catalogue changes, for every protocol.

They need no model, and no recommendation needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from inference_server.core.errors import DeadlineTooShort
from inference_server.events.group_commit import GroupCommit
from inference_server.events.stream import Batch, Entry
from inference_server.security.callers import require_user, taking_turn
from inference_server.telemetry.statistics import Statistics
from tandem.contract.streams import EVENTS, ITEM_CHANGES, Event, ItemChange

_SECONDS_TO_ANSWER: Final = 0.005
"""Part of a caller's time that is reserved for sending the response."""
_MIN_SECONDS: Final = 0.002
"""A call with less time than this left is refused: nothing can be appended that fast."""
_UPSERT: Final = "item_upsert"
_DELETE: Final = "item_delete"


class Recorder:
    """Appends events and catalogue changes to their streams."""

    def __init__(
        self,
        commit: GroupCommit,
        statistics: Statistics,
        *,
        max_seconds: float,
        on_events: Callable[[Sequence[Event]], None] = lambda _: None,
    ) -> None:
        """`max_seconds` caps every caller's deadline. `on_events` is told the events that are durable."""
        self._commit = commit
        self._statistics = statistics
        self._max_seconds = max_seconds
        self._on_events = on_events

    async def record_events(self, events: Sequence[Event], time_remaining_seconds: float | None) -> int:
        """Returns the number of events once all of them are durable. Raises RequestError."""
        for event in events:
            require_user(event.user_id)
        entries = [Entry(event.user_id.encode(), event.to_bytes()) for event in events]
        await self._append(EVENTS, entries, time_remaining_seconds)
        self._statistics.events_appended.update(Counter(event.type for event in events))
        self._on_events(events)
        return len(entries)

    async def change_items(self, changes: Sequence[ItemChange], time_remaining_seconds: float | None) -> int:
        """Returns the number of changes once all of them are durable. Raises RequestError."""
        entries = [Entry(change.item_id.encode(), change.to_bytes()) for change in changes]
        await self._append(ITEM_CHANGES, entries, time_remaining_seconds)
        self._statistics.events_appended.update(Counter(_DELETE if change.deleted else _UPSERT for change in changes))
        return len(entries)

    async def start(self) -> None:
        """Starts to append."""
        await self._commit.start()

    async def close(self) -> None:
        """Closes the connections."""
        await self._commit.close()

    async def _append(self, stream: str, entries: Sequence[Entry], time_remaining_seconds: float | None) -> None:
        allowed = self._max_seconds
        if time_remaining_seconds is not None:
            allowed = min(allowed, time_remaining_seconds - _SECONDS_TO_ANSWER)
        if allowed < _MIN_SECONDS:
            raise DeadlineTooShort("too little time is left to record anything")
        with taking_turn():
            await self._commit.append(Batch(stream, entries), allowed)

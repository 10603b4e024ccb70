"""Every event that was ever applied: the archive's files, and the log of what is in no file yet.

The log grows, and the archiver moves its entries into files, while this is read. `refresh` finds what came since: it
reads the log before it lists the files, so an entry that has left the log is in a file that is listed.

An archived event takes about a hundred bytes of memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from feature_sync.archive.day_files import LogId, all_files, last_of
from feature_sync.archive.tables import EventTable, read_event_files
from feature_sync.store.connection import Command, StoreConnection
from tandem.contract.streams import ENTRY_FIELD, EVENTS, Event, applied_key

_PAGE_ENTRIES: Final = 2_000


class AppliedEvents:
    """All applied events by user, oldest applied first."""

    def __init__(self, store: StoreConnection, folder: Path) -> None:
        """Reads log and files. Raises StoreAway, and ArchiveUnreadable."""
        self._store = store
        self._folder = folder
        self._log_position = "-"
        logged = self._new_in_log()
        self._known_files = set(files := all_files(folder))
        self._table: EventTable = read_event_files(files)
        newest = max(map(last_of, files), default=None)
        self._recent: list[Event] = [event for position, event in logged if newest is None or position > newest]
        """What no file that was read first holds, in the order in which it was applied."""
        self._item_counts: Counter[tuple[str, str]] | None = None
        self._recent_ids = {event.event_id for event in self._recent}
        self._recent_of: dict[str, list[Event]] = {}
        for event in self._recent:
            self._recent_of.setdefault(event.user_id, []).append(event)

    @property
    def num_events(self) -> int:
        """Number of events that were found so far."""
        return len(self._table) + len(self._recent)

    def refresh(self) -> None:
        """Also takes in what was applied since. Raises StoreAway, and ArchiveUnreadable."""
        self._take_in([event for _, event in self._new_in_log()])

    def refresh_and_read(self, commands: Sequence[Command]) -> list[Any]:
        """`refresh`; returns the replies to `commands` as of the very moment up to which events are then known.

        So what the events add up to, less what a reply shows, is what the store has lost.
        """
        self.refresh()
        page, *replies = self._store.transaction([self._next_page(1 << 30), *commands])
        self._take_in([event for _, event in self._parsed(page)])
        return replies

    def _take_in(self, found: list[Event]) -> None:
        if new_files := [path for path in all_files(self._folder) if path not in self._known_files]:
            self._known_files.update(new_files)
            found = [*read_event_files(new_files), *found]
        for event in found:
            if event.event_id not in self._recent_ids:
                self._recent_ids.add(event.event_id)
                self._recent.append(event)
                self._recent_of.setdefault(event.user_id, []).append(event)

    def user_ids(self) -> list[str]:
        """Users with events, without order."""
        return list(dict.fromkeys([*self._table.users, *self._recent_of]))

    def of_user(self, user_id: str) -> list[tuple[Event, str]]:
        """A user's events, each id once, and the day whose files hold it; "" for what was in no file at the start."""
        events = [*self._table.of_user(user_id), *((event, "") for event in self._recent_of.get(user_id, ()))]
        return list({event.event_id: (event, day) for event, day in reversed(events)}.values())[::-1]

    def since(self, occurred_at: int) -> Iterator[Event]:
        """Events that occurred at this time or later, microseconds since 1970."""
        yield from self._table.since(occurred_at)
        yield from (event for event in self._recent if event.occurred_at >= occurred_at)

    def received_since(self, received_at: int) -> Iterator[str]:
        """Ids of events that the server accepted at this time or later, microseconds since 1970."""
        yield from self._table.ids_received_since(received_at)
        yield from (event.event_id for event in self._recent if event.received_at >= received_at)

    def item_counts(self) -> Counter[tuple[str, str]]:
        """Number of events by item and type."""
        if self._item_counts is None:
            self._item_counts = self._table.item_counts()
        return self._item_counts + Counter((event.item_id, event.type) for event in self._recent)

    def _new_in_log(self) -> list[tuple[LogId, Event]]:
        entries: list[tuple[LogId, Event]] = []
        while True:
            page: Sequence[Any] = self._store.call(*self._next_page(_PAGE_ENTRIES))
            entries += self._parsed(page)
            if len(page) < _PAGE_ENTRIES:
                return entries

    def _next_page(self, max_entries: int) -> Command:
        return ("XRANGE", applied_key(EVENTS), self._log_position, "+", "COUNT", max_entries)

    def _parsed(self, page: Sequence[Any]) -> Iterator[tuple[LogId, Event]]:
        for raw_id, fields in page:
            self._log_position = f"({raw_id.decode()}"
            values = dict(zip(fields[::2], fields[1::2], strict=True))
            yield LogId.parse(raw_id.decode()), Event.from_bytes(values[ENTRY_FIELD])

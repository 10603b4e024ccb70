"""Moves the log of applied entries from the online store into files.

Read `Archiver.run` downwards. Entries leave the store only once they are on disk. A kill at any point repeats nothing:
the next start continues after the newest file, and removes entries from the store that were written already. If the
store was emptied and its clock is behind the newest file, its log is first made to continue after that file.

What belongs to a user who is deleted meanwhile enters no file: the register of deleted users is read while nobody
rewrites files (see `day_files.writing`), so a deletion either finds the file or is known to whoever writes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import structlog

from feature_sync.archive.day_files import DayFiles, LogId
from feature_sync.archive.tables import write_entries
from feature_sync.core.errors import Unavailable
from feature_sync.core.progress import report_progress
from feature_sync.store.connection import StoreConnection
from feature_sync.store.deleted_users import deletions_among, lookup
from feature_sync.store.owned_entries import OWNED_STREAMS, owned_entry
from feature_sync.telemetry.metrics import ArchiveMetrics
from tandem.contract.store import deleted_users_key
from tandem.contract.streams import ENTRY_FIELD, applied_key
from tandem.ops.storage_errors import storage_error_line

_TICK_SECONDS: Final = 0.5
_PAGE_ENTRIES: Final = 2_000
"""Entries in one read: a reply with all entries would block the store's other clients."""

_GO_ON: Final = """
local key, milliseconds, number = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
if not newest then
  if redis.call('EXISTS', key) == 0 then
    local position = ARGV[1] .. '-' .. ARGV[2]
    redis.call('XADD', key, position, ARGV[3], '')
    redis.call('XDEL', key, position)
  end
  return 0
end
local newest_milliseconds, newest_number = string.match(newest[1], '(%d+)-(%d+)')
newest_milliseconds, newest_number = tonumber(newest_milliseconds), tonumber(newest_number)
if newest_milliseconds > milliseconds or (newest_milliseconds == milliseconds and newest_number >= number) then
  return 0
end
local entries = redis.call('XRANGE', key, '-', '+')
for index, entry in ipairs(entries) do
  redis.call('XADD', key, string.format('%.0f-%.0f', milliseconds, number + index), unpack(entry[2]))
  redis.call('XDEL', key, entry[1])
end
return #entries
"""
"""A log whose newest entry is before the archive's position was restarted. The script gives its entries ids after that
position, and later entries follow; one script, so that no client appends in between."""

_Logged = tuple[LogId, bytes]
_log = structlog.get_logger(__name__)


class Archiver:
    """The archive of one stream."""

    def __init__(
        self,
        store: StoreConnection,
        stream: str,
        folder: Path,
        *,
        flush_rows: int,
        flush_seconds: float,
        metrics: ArchiveMetrics,
    ) -> None:
        """Writes a file as soon as `flush_rows` entries wait, or the oldest has waited for `flush_seconds`."""
        self._store = store
        self._stream = stream
        self._log_key = applied_key(stream)
        self._files = DayFiles(folder)
        self._flush_rows = flush_rows
        self._flush_seconds = flush_seconds
        self._metrics = metrics
        self._stop = threading.Event()
        self._oldest: LogId | None = None
        self._seen_at = 0.0

    def stop(self) -> None:
        """Makes `run` write the entries that wait, and end. Callable from any thread."""
        self._stop.set()

    def run(self) -> None:
        """Archives until it is stopped. Waits while another process archives into this folder."""
        while not self._files.try_lock():
            report_progress()
            if self._stop.wait(_TICK_SECONDS):
                return
        try:
            self._follow()
        finally:
            self._files.unlock()

    def _follow(self) -> None:
        is_away = is_stopping = False
        while not is_stopping:
            report_progress()
            is_stopping = self._stop.wait(_TICK_SECONDS)
            try:
                self._archive(at_once=is_stopping)
                is_away = False
            except (Unavailable, OSError) as error:  # OSError: the disk is full, the folder is gone
                if not is_away:
                    reason = storage_error_line(error) if isinstance(error, OSError) else str(error)
                    _log.warning("archive_waits", stream=self._stream, error=reason)
                is_away = True

    def _archive(self, *, at_once: bool) -> None:
        """Writes files until fewer entries are left than fill a file; with `at_once`, until no entry is left."""
        while self._is_due(at_once=at_once):
            entries = self._read(self._flush_rows)
            for _, day_entries in groupby(entries, key=lambda entry: entry[0].day):
                self._add(list(day_entries))
                report_progress()

    def _is_due(self, *, at_once: bool) -> bool:
        position = self._files.position
        if position is not None:
            self._go_on_behind(position)
            # Also removes entries that a killed process had written but not yet removed.
            self._store.call("XTRIM", self._log_key, "MINID", str(position.next))
        num_waiting, oldest = self._store.run(
            [("XLEN", self._log_key), ("XRANGE", self._log_key, "-", "+", "COUNT", 1)]
        )
        age_seconds = self._age_seconds(LogId.parse(oldest[0][0].decode())) if oldest else 0.0
        self._metrics.report_waiting(age_seconds)
        if num_waiting == 0:
            return False
        return at_once or num_waiting >= self._flush_rows or age_seconds >= self._flush_seconds

    def _age_seconds(self, oldest: LogId) -> float:
        """How long the oldest entry has waited: since its time, or, if that lies in the future, since it was first
        read."""
        if oldest != self._oldest:
            self._oldest, self._seen_at = oldest, time.monotonic()
        return max(time.time() - oldest.milliseconds / 1000, time.monotonic() - self._seen_at)

    def _go_on_behind(self, position: LogId) -> None:
        """Ensures that no entry is taken for an archived one after the store has lost the log."""
        renumbered = self._store.call(
            *("EVAL", _GO_ON, 1, self._log_key, position.milliseconds, position.number, ENTRY_FIELD)
        )
        if renumbered:
            _log.warning(
                "archive_goes_on",
                stream=self._stream,
                num_entries=renumbered,
                position=str(position),
                reason="the store lost its log, and its clock is behind the archive",
            )

    def _read(self, max_entries: int) -> Iterator[_Logged]:
        """The oldest entries of the log."""
        start = "-"
        while max_entries > 0:
            page = self._store.call("XRANGE", self._log_key, start, "+", "COUNT", min(max_entries, _PAGE_ENTRIES))
            if not page:
                return
            for raw_id, fields in page:
                yield LogId.parse(raw_id.decode()), dict(zip(fields[::2], fields[1::2], strict=True))[ENTRY_FIELD]
            start = f"({page[-1][0].decode()}"
            max_entries -= len(page)

    def _add(self, entries: Sequence[_Logged]) -> None:
        """Writes the file of one day's entries."""
        payloads = [payload for _, payload in entries]
        first, last = entries[0][0], entries[-1][0]
        self._files.add(first, last, lambda path: write_entries(self._stream, self._kept(payloads), path))
        self._metrics.archived.inc(len(entries))
        _log.debug("archived", stream=self._stream, num_entries=len(entries), last=str(last))

    def _kept(self, payloads: Sequence[bytes]) -> Sequence[bytes]:
        """The entries without those of deleted users. Raises StoreAway and StreamEntryError."""
        if self._stream not in OWNED_STREAMS or not self._store.call("EXISTS", deleted_users_key()):
            return payloads
        entries = [owned_entry(self._stream, payload) for payload in payloads]
        users = list({entry.user_id for entry in entries})
        deleted_at = deletions_among(users, self._store.call(*lookup(users)))
        return [
            payload
            for entry, payload in zip(entries, payloads, strict=True)
            if not entry.is_left_out(deleted_at.get(entry.user_id))
        ]

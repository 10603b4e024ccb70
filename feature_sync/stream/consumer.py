"""The loop that reads a stream and applies its entries, which are events or item changes.

Read `Consumer.run` downwards. The possible outcomes of a batch:

| outcome                                    | consequence                                                         |
| ------------------------------------------ | ------------------------------------------------------------------- |
| it is applied                              | it is acknowledged, in the same transaction where that is possible  |
| the store or the broker does not answer    | unacknowledged entries are read again, until it answers             |
| another writer changed what it had read    | it is retried at once, in halves, which conflict less often         |
| an entry cannot be read                    | that entry goes to the dead letters, with the reason                |
| applying raises any other exception        | halves, down to the entry that causes it, which goes there too      |
| the process dies                           | another consumer, or the next start, takes over what is pending     |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import structlog

from feature_sync.core.errors import StoreConflict, Unavailable
from feature_sync.core.progress import report_progress
from feature_sync.store.connection import Command
from feature_sync.stream.dead_letters import DeadLetters
from feature_sync.stream.source import Entry, Source
from feature_sync.telemetry.metrics import StreamMetrics
from tandem.contract.errors import StreamEntryError

_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0
_LAG_EVERY_SECONDS: Final = 1.0

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed(Generic[_T]):
    """An entry that could be read."""

    payload: bytes
    value: _T


_Read = tuple[Entry, Parsed[_T]]


class Applier(Protocol[_T]):
    """Applies entries of one kind."""

    def parse(self, payload: bytes) -> _T:
        """Reads an entry. Raises StreamEntryError."""
        ...

    def apply(self, entries: Sequence[Parsed[_T]], acknowledgement: Sequence[Command]) -> None:
        """Applies each entry once, even if it is repeated: all or nothing, with `acknowledgement` in the same
        transaction.

        Raises Unavailable while a dependency is missing (the store, a model): the entries wait in the stream. Raises
        StoreConflict if another writer was faster. Any other exception is taken for the fault of one of the entries.
        """
        ...

    def rest(self) -> None:
        """Called after every read, with or without entries, for periodic work. Raises Unavailable."""
        ...


class Consumer(Generic[_T]):
    """Reads one stream and applies its entries, until it is stopped."""

    def __init__(
        self,
        source: Source,
        applier: Applier[_T],
        *,
        dead_letters: DeadLetters,
        metrics: StreamMetrics,
        batch_entries: int,
        wait_seconds: float = 1.0,
    ) -> None:
        """A batch has up to `batch_entries`. A read waits up to `wait_seconds` for the first entry, which also delays
        `stop`."""
        self._source = source
        self._applier = applier
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._batch_entries = batch_entries
        self._wait_seconds = wait_seconds
        self._stop = threading.Event()
        self._is_behind = False
        self._next_lag_at = 0.0

    @property
    def is_behind(self) -> bool:
        """Whether more entries wait than fit into one batch. Callable from any thread."""
        return self._is_behind

    def stop(self) -> None:
        """Makes `run` end after the current batch. Callable from any thread."""
        self._stop.set()

    def run(self) -> None:
        """Applies entries until it is stopped."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            report_progress()
            try:
                entries = self._source.read(self._batch_entries, self._wait_seconds)
                self._is_behind = len(entries) == self._batch_entries
                if entries:
                    self._apply(entries)
                self._applier.rest()
                self._report_lag()
            except Unavailable as error:
                # Whether the batch was applied is unknown here: the stream delivers unacknowledged entries again.
                self._source.rewind()
                self._metrics.report_away(error)
                self._stop.wait(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            else:
                self._metrics.report_back()
                pause_seconds = _FIRST_PAUSE_SECONDS
        self._source.close()

    def _apply(self, entries: Sequence[Entry]) -> None:
        started = time.perf_counter()
        readable: list[_Read[_T]] = []
        for entry in entries:
            try:
                readable.append((entry, self._parse(entry)))
            except StreamEntryError as error:
                self._bury(entry, str(error))
        parts = [readable]
        while parts:
            part = parts.pop()
            if not part:
                continue
            if self._apply_part(part):
                report_progress()
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
        self._metrics.batch_seconds.observe(time.perf_counter() - started)

    def _parse(self, entry: Entry) -> Parsed[_T]:
        if entry.payload is None:
            raise StreamEntryError("what lies in the stream is no entry: it lacks the field")
        return Parsed(payload=entry.payload, value=self._applier.parse(entry.payload))

    def _apply_part(self, part: Sequence[_Read[_T]]) -> bool:
        """Applies and acknowledges entries, or makes a single entry a dead letter. Returns False if they must be
        retried in halves."""
        entries = [entry for entry, _ in part]
        try:
            self._applier.apply([parsed for _, parsed in part], self._source.acknowledgement(entries))
        except Unavailable:
            raise
        except StoreConflict:
            self._metrics.conflicts.inc()
            return False
        except Exception as error:
            if len(part) > 1:
                return False
            _log.exception("entry_cannot_be_applied", stream=self._dead_letters.stream)
            self._bury(entries[0], f"{type(error).__name__}: {error}")
        else:
            self._source.acknowledge(entries)
        return True

    def _bury(self, entry: Entry, reason: str) -> None:
        self._dead_letters.bury(entry, reason, self._source.acknowledgement([entry]))
        self._source.acknowledge([entry])
        self._metrics.dead.inc()

    def _report_lag(self) -> None:
        if time.monotonic() >= self._next_lag_at:
            self._next_lag_at = time.monotonic() + _LAG_EVERY_SECONDS
            self._metrics.report_lag(self._source.lag())

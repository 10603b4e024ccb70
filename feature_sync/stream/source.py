"""A stream as a consumer reads it. `redis_source` and `kafka_source` implement it.

Delivery is at least once: an entry that was read but not acknowledged is read again, by this consumer or by another,
also after a kill. So applying an entry must be idempotent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from feature_sync.core.lag import Lag
from feature_sync.store.connection import Command


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of a stream."""

    position: str
    """The position in the stream, in the stream's own notation."""
    payload: bytes | None
    """The appended bytes; None for a message of the stream that is not an entry."""


class Source(Protocol):
    """A stream, read by one member of the consumer group. Every method except `rewind` raises Unavailable."""

    def read(self, max_entries: int, wait_seconds: float) -> Sequence[Entry]:
        """The next entries; waits for the first entry, and returns an empty list if none arrives in time."""
        ...

    def acknowledgement(self, entries: Sequence[Entry]) -> list[Command]:
        """Commands that acknowledge entries in the store's own transaction; empty if the stream is not in the store."""
        ...

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Acknowledges entries that were applied, unless the transaction that applied them did it already."""
        ...

    def rewind(self) -> None:
        """Makes the next read begin with the entries that were read but not acknowledged. Raises nothing."""
        ...

    def lag(self) -> Lag:
        """The entries that are not applied yet."""
        ...

    def close(self) -> None:
        """Leaves the group."""
        ...

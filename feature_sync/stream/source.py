"""What every stream can do for a consumer. `redis_source` and `kafka_source` are the two kinds there are.

Delivery is at least once: an entry that was read and not acknowledged is read again, by this consumer or by another,
also after a kill. So whoever applies entries must be able to meet one twice.
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
    """Where it lies in the stream, as the stream writes it."""
    payload: bytes | None
    """What was appended; None for something that lies in the stream but was not appended as an entry is."""


class Source(Protocol):
    """A stream, as one member of the consumer group reads it. Every method but `rewind` raises Unavailable."""

    def read(self, max_entries: int, wait_seconds: float) -> Sequence[Entry]:
        """The next entries; waits for the first one, and returns none where there is none by then."""
        ...

    def acknowledgement(self, entries: Sequence[Entry]) -> list[Command]:
        """Commands that acknowledge entries in the store's own transaction; none where the stream lies elsewhere."""
        ...

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Acknowledges entries that were applied, unless the transaction that applied them did it already."""
        ...

    def rewind(self) -> None:
        """Lets the next read begin with what was read and not acknowledged. Does nothing else, and raises nothing."""
        ...

    def lag(self) -> Lag:
        """What is not applied yet."""
        ...

    def close(self) -> None:
        """Leaves the group."""
        ...

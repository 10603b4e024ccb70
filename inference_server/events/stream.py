"""The interface of a stream: entries are appended to it, and it tells when they are durable.

`redis_stream` and `kafka_stream` implement it; one contract test runs over both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One packed entry."""

    key: bytes
    """Id of the user or the item. Entries with the same key keep their order."""
    value: bytes
    """An `Event`, an `ItemChange` or an `Impression`, packed as the contract defines it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The entries of one call."""

    stream: str
    """streams.EVENTS, streams.ITEM_CHANGES or streams.IMPRESSIONS."""
    entries: Sequence[Entry]


class StreamFailed(Exception):
    """Entries may not be durable: the stream is unavailable, slow, or loses entries. Not raised outside `events`."""


class StreamFull(Exception):
    """The stream has no room and appended nothing. Not raised outside `events`."""


class EventStream(Protocol):
    """A stream. One task at a time appends to it."""

    async def append(self, batches: Sequence[Batch]) -> None:
        """Appends all entries in their order. Returns once they are durable.

        Raises StreamFailed, and then any of them may be in the stream; or StreamFull, and then none is.
        """

    async def probe(self) -> None:
        """Checks that entries could be appended now. Raises StreamFailed, or StreamFull."""

    @property
    def backlog(self) -> Mapping[str, int]:
        """Number of entries that are still in each stream, as last read; empty where that cannot be known."""

    async def close(self) -> None:
        """Closes the connections. Entries that are being appended may be lost."""

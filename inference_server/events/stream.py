"""What a stream is to this server: something that entries are appended to, and that says when they are safe there.

Two implementations, `redis_stream` and `kafka_stream`; one contract test runs over both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, packed."""

    key: bytes
    """The user's or the item's id: entries of one key keep their order."""
    value: bytes
    """An `Event` or an `ItemChange`, as the contract packs it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The entries of one call."""

    stream: str
    """streams.EVENTS or streams.ITEM_CHANGES."""
    entries: Sequence[Entry]


class StreamFailed(Exception):
    """Entries that may not be safe: the stream is away, slow, or does not keep what it takes. Never leaves `events`."""


class StreamFull(Exception):
    """The stream took nothing, because it has no room. Never leaves `events`."""


class EventStream(Protocol):
    """A stream that entries are appended to, by one task at a time."""

    async def append(self, batches: Sequence[Batch]) -> None:
        """Appends all entries, in their order. Returns once they are safe.

        Raises StreamFailed; then any of them may be in the stream, or none. Raises StreamFull; then none is.
        """

    async def probe(self) -> None:
        """Looks whether entries could be appended now. Raises StreamFailed."""

    @property
    def backlog(self) -> Mapping[str, int]:
        """Entries by stream that nobody has taken off yet, when last heard; empty where that cannot be known."""

    async def close(self) -> None:
        """Ends the connections. What is being appended may be lost."""

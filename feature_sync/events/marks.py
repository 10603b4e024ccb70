"""Marks of applied events: one for every event id, kept for some days, so that an id takes effect only once.

A mark is 64 bits of a digest, in one of 65,536 sets that another 16 bits of the digest select: the store keeps a small
set of integers as a sorted array with 8 bytes for each mark, a tenth of what a key for each mark would take. With 80
bits, the probability of a false match is 1e-16 for each new event at a hundred million marks.

Each set belongs to a period, whose length is the time that marks must last. An id is looked up in the current and in
the previous period, so a mark is found for at least one period, and its set expires after two. The number of a period
depends on its length, so a change of the setting forgets all marks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feature_sync.store.connection import Command
from tandem.contract.store import KEY_PREFIX

_PREFIX: Final = KEY_PREFIX + b"event-marks/"
_SHARD_BYTES: Final = 2
_DIGEST_BYTES: Final = 8 + _SHARD_BYTES


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of one event id."""

    shard: bytes
    """The set's number, hexadecimal."""
    member: int
    """64 bits, signed like the store's integers."""


def mark_of(entry_id: str, *, kind: bytes = b"") -> Mark:
    """The mark of an event id, or of an id of another `kind`, at most 16 bytes, which is none of an event."""
    digest = hashlib.blake2b(entry_id.encode(), digest_size=_DIGEST_BYTES, person=kind).digest()
    return Mark(digest[:_SHARD_BYTES].hex().encode(), int.from_bytes(digest[_SHARD_BYTES:], "little", signed=True))


class EventMarks:
    """Commands that look up and set marks at a given time."""

    def __init__(self, *, period_seconds: int, now: float) -> None:
        """`now` is the store's time, in seconds since 1970."""
        period = int(now) // period_seconds
        self._sets = [b"%b%d/" % (_PREFIX, period - age) for age in (0, 1)]
        self.expires_at = (period + 2) * period_seconds
        """When marks that are set now may be forgotten, seconds since 1970."""

    def sets_of(self, mark: Mark) -> list[bytes]:
        """Keys of the sets that may hold a mark: that of now, to which it is added, and the one before."""
        return [prefix + mark.shard for prefix in self._sets]

    def lookups(self, marks: Sequence[Mark]) -> list[Command]:
        """Commands that look up marks; `found` reads their replies."""
        return [("SISMEMBER", prefix + mark.shard, mark.member) for prefix in self._sets for mark in marks]

    def found(self, replies: Sequence[Any]) -> list[bool]:
        """For each mark of `lookups`, whether the store has it."""
        half = len(replies) // 2
        return [bool(this or before) for this, before in zip(replies[:half], replies[half:], strict=True)]

    def additions(self, marks: Iterable[Mark]) -> list[Command]:
        """Commands that set marks."""
        commands: list[Command] = []
        for mark in marks:
            key = self._sets[0] + mark.shard
            commands += [("SADD", key, mark.member), ("EXPIREAT", key, self.expires_at)]
        return commands

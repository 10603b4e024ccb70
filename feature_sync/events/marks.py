"""Which events were applied: a mark for every event id, kept for some days, so that an id takes effect once.

A mark is 64 bits of a digest in one of 65,536 sets, which another 16 bits of the digest choose: the store keeps a set
of so few integers as one sorted array, 8 bytes a mark, where a key for each would take ten times as much. 80 bits make
a false match all but impossible: at a hundred million marks, 1e-16 for each new event.

Sets belong to a period as long as marks have to last. An id is looked for in this period and in the one before, so a
mark is found for one period at least, and its set expires when two have passed. Periods of another length number their
sets otherwise, so a change of the setting forgets all marks.
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
    """Which set, hexadecimal."""
    member: int
    """64 bits, signed, as the store keeps integers."""


def mark_of(event_id: str) -> Mark:
    """The mark of an event id."""
    digest = hashlib.blake2b(event_id.encode(), digest_size=_DIGEST_BYTES).digest()
    return Mark(digest[:_SHARD_BYTES].hex().encode(), int.from_bytes(digest[_SHARD_BYTES:], "little", signed=True))


class EventMarks:
    """Commands that look for marks and set them, at one moment."""

    def __init__(self, *, period_seconds: int, now: float) -> None:
        """`now` is the store's time, in seconds since 1970."""
        period = int(now) // period_seconds
        self._sets = [b"%b%d/" % (_PREFIX, period - age) for age in (0, 1)]
        self._expires_at = (period + 2) * period_seconds

    def lookups(self, marks: Sequence[Mark]) -> list[Command]:
        """Commands whose replies `found` understands."""
        return [("SISMEMBER", prefix + mark.shard, mark.member) for prefix in self._sets for mark in marks]

    def found(self, replies: Sequence[Any]) -> list[bool]:
        """For each mark of `lookups`, whether it is there."""
        half = len(replies) // 2
        return [bool(this or before) for this, before in zip(replies[:half], replies[half:], strict=True)]

    def additions(self, marks: Iterable[Mark]) -> list[Command]:
        """Commands that set marks."""
        commands: list[Command] = []
        for mark in marks:
            key = self._sets[0] + mark.shard
            commands += [("SADD", key, mark.member), ("EXPIREAT", key, self._expires_at)]
        return commands

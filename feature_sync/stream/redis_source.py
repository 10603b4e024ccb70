"""A Redis stream, read as one consumer of the group.

Acknowledged entries are deleted in the same transaction, so XLEN is the backlog, which the server's back-pressure uses
too.

A consumer has a new name at every start. The unacknowledged entries of a dead consumer are taken over after some
seconds of silence; a live consumer is active at least once a second, because a read blocks no longer. If a slow
consumer is taken for dead, its entries are still applied only once: applying is idempotent.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

import structlog

from feature_sync.core.errors import StoreAway
from feature_sync.core.lag import Lag
from feature_sync.store.connection import Command, StoreConnection
from feature_sync.stream.source import Entry
from tandem.contract.streams import CONSUMER_GROUP, ENTRY_FIELD, stream_key

_LONGEST_BLOCK_SECONDS: Final = 1.0
_FORGET_AFTER_TAKEOVERS: Final = 10
"""A silent consumer without entries is removed after this multiple of the time after which it is taken for dead."""
_FORGET: Final = b"""
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local name, pending, idle = consumer[2], consumer[4], consumer[6]
  if name ~= ARGV[2] and pending == 0 and idle > tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)
  end
end
"""
"""A script, because a consumer that wakes between the check and the removal would lose the entries that it has just
read."""

_log = structlog.get_logger(__name__)


class RedisSource:
    """See the module."""

    def __init__(self, url: str, stream: str, *, takeover_seconds: float, shares_store: bool) -> None:
        """`stream` is EVENTS or ITEM_CHANGES; `shares_store` is whether it is in the online store itself."""
        self._connection = StoreConnection(url)
        self._key = stream_key(stream)
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._takeover_ms = int(1000 * takeover_seconds)
        self._shares_store = shares_store
        self._next_takeover_at = 0.0
        self._has_group = False
        self._had_group = False
        self._rereads_pending = False

    def read(self, max_entries: int, wait_seconds: float) -> Sequence[Entry]:
        """The next entries: after a rewind this consumer's pending entries, then those of dead consumers, then new
        entries."""
        if not self._has_group:
            self._make_group()
        if self._rereads_pending:
            if entries := self._read_group(max_entries, "0"):
                return entries
            self._rereads_pending = False
        if time.monotonic() >= self._next_takeover_at:
            if entries := self._take_over(max_entries):
                return entries
            self._next_takeover_at = time.monotonic() + self._takeover_ms / 2000
        # BLOCK 0 would wait forever.
        block_ms = max(1, int(1000 * min(wait_seconds, _LONGEST_BLOCK_SECONDS)))
        return self._read_group(max_entries, ">", "BLOCK", block_ms)

    def rewind(self) -> None:
        """Makes the next read begin with this consumer's pending entries, and recreate the group if it was lost."""
        self._has_group, self._rereads_pending = False, True

    def acknowledgement(self, entries: Sequence[Entry]) -> list[Command]:
        """XACK and XDEL if the stream is in the online store."""
        return self._acknowledgement(entries) if self._shares_store else []

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Acknowledges entries of a stream that is not in the online store."""
        if not self._shares_store:
            self._connection.transaction(self._acknowledgement(entries))

    def lag(self) -> Lag:
        """The number of entries in the stream, including those being applied, and the age of the oldest, from its
        id."""
        num_entries, oldest, (seconds, _) = self._connection.run(
            [("XLEN", self._key), ("XRANGE", self._key, "-", "+", "COUNT", 1), ("TIME",)]
        )
        if not oldest:
            return Lag(num_entries=num_entries, oldest_seconds=0.0)
        added_ms = int(oldest[0][0].partition(b"-")[0])
        return Lag(num_entries=num_entries, oldest_seconds=max(0.0, int(seconds) - added_ms / 1000))

    def close(self) -> None:
        """Closes the connection. Other consumers remove this one, or take over its pending entries."""
        self._connection.close()

    def _make_group(self) -> None:
        groups = self._connection.call("EXISTS", self._key) and self._connection.call("XINFO", "GROUPS", self._key)
        if not any(CONSUMER_GROUP.encode() in group for group in groups or ()):
            try:
                # From the beginning: what was applied has left the stream, so no entry is applied twice.
                self._connection.call("XGROUP", "CREATE", self._key, CONSUMER_GROUP, "0", "MKSTREAM")
                _log.info("consumer_group_made", stream=self._key.decode(), again=self._had_group)
            except StoreAway as error:
                if "BUSYGROUP" not in str(error):
                    raise
        self._has_group = self._had_group = True

    def _read_group(self, max_entries: int, after: str, *options: str | int) -> list[Entry]:
        reply = self._connection.call(
            *("XREADGROUP", "GROUP", CONSUMER_GROUP, self._consumer, "COUNT", max_entries),
            *options,
            *("STREAMS", self._key, after),
        )
        return self._entries(reply[0][1]) if reply else []

    def _take_over(self, max_entries: int) -> list[Entry]:
        silent_ms = _FORGET_AFTER_TAKEOVERS * self._takeover_ms
        (_, taken, *_), _ = self._connection.run(
            [
                ("XAUTOCLAIM", self._key, CONSUMER_GROUP, self._consumer, self._takeover_ms, "0", "COUNT", max_entries),
                ("EVAL", _FORGET, 1, self._key, CONSUMER_GROUP, self._consumer, silent_ms),
            ]
        )
        if taken:
            _log.info("entries_taken_over", stream=self._key.decode(), num_entries=len(taken))
        return self._entries(taken)

    def _entries(self, raw: Sequence[Any]) -> list[Entry]:
        entries = [_entry(position, fields) for position, fields in raw if fields is not None]
        gone = [position for position, fields in raw if fields is None]
        if gone:  # deleted from the stream, therefore applied, but still pending
            self._connection.call("XACK", self._key, CONSUMER_GROUP, *gone)
        return entries

    def _acknowledgement(self, entries: Sequence[Entry]) -> list[Command]:
        positions = [entry.position for entry in entries]
        return [("XACK", self._key, CONSUMER_GROUP, *positions), ("XDEL", self._key, *positions)]


def _entry(position: bytes, fields: Sequence[bytes]) -> Entry:
    by_name = dict(zip(fields[::2], fields[1::2], strict=True))
    return Entry(position=position.decode(), payload=by_name.get(ENTRY_FIELD))

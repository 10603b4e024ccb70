"""Applies impressions: each goes once into the log of applied ones, from which the archive takes it.

Unlike an event, an impression changes no state, so nothing is read before it is written: a script of the store adds
those whose request ids are new, in one step with their marks. Two consumers that hold the same impression, or a server
that appended it twice because it got no reply, therefore add it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from feature_sync.core.errors import Unavailable
from feature_sync.events.marks import EventMarks, mark_of
from feature_sync.store.connection import Command, StoreClock, StoreConnection
from feature_sync.store.deleted_users import deletions_among, lookup
from feature_sync.stream.consumer import Parsed
from feature_sync.telemetry.metrics import StreamMetrics
from tandem.contract.deleted_users import is_left_out
from tandem.contract.impressions import Impression
from tandem.contract.store import deleted_users_key
from tandem.contract.streams import ENTRY_FIELD, IMPRESSIONS, applied_key

_MARK_SECONDS: Final = 24 * 3600
"""Minimum time for which a request id is remembered: a server repeats an impression for a minute, and a stream gives
again what a consumer had read when it died. An id takes about 16 bytes of the store, for up to twice this time."""
_MAX_LOGGED: Final = 1_000_000
"""Impressions that may wait for the archive, 1 GB of the store. Beyond it they wait in the stream, which is bounded."""
_TYPE: Final = "impression"
_MARK: Final = _TYPE.encode()
"""Tells marks of request ids from those of event ids, which callers choose."""
_ADD_NEW: Final = """
local added = 0
for index = 1, #ARGV / 2 - 1 do
  local member, set, set_before = ARGV[2 * index + 1], KEYS[2 * index], KEYS[2 * index + 1]
  if redis.call('SISMEMBER', set_before, member) == 0 and redis.call('SADD', set, member) == 1 then
    redis.call('EXPIREAT', set, ARGV[1])
    redis.call('XADD', KEYS[1], '*', ARGV[2], ARGV[2 * index + 2])
    added = added + 1
  end
end
return added
"""


class ImpressionApplier:
    """Logs impressions. Holds one connection to the online store; not for several threads."""

    def __init__(self, store: StoreConnection, *, metrics: StreamMetrics) -> None:
        self._store = store
        self._clock = StoreClock(store)
        self._metrics = metrics

    def parse(self, payload: bytes) -> Impression:
        """Reads an impression. Raises StreamEntryError."""
        return Impression.from_bytes(payload)

    def apply(self, entries: Sequence[Parsed[Impression]], acknowledgement: Sequence[Command]) -> None:
        """Logs impressions whose request ids are new, but none from before their user's deletion.

        Raises StoreAway and StoreConflict, and Unavailable while the archive does not keep up.
        """
        users = list({entry.value.user_id for entry in entries})
        # A batch that ended in an exception may have left the register watched.
        _, _, deletions, num_logged = self._store.run(
            [
                ("UNWATCH",),
                ("WATCH", deleted_users_key()),
                lookup(users),
                ("XLEN", applied_key(IMPRESSIONS)),
            ]
        )
        if num_logged > _MAX_LOGGED:
            raise Unavailable(
                f"{num_logged} impressions wait for the archive: does a process with TANDEM_ARCHIVE run, and has its "
                "disk room?"
            )
        deleted_at = deletions_among(users, deletions)
        kept = [
            entry
            for entry in entries
            if not is_left_out(deleted_at.get(entry.value.user_id), entry.value.timestamp, entry.value.timestamp)
        ]
        num_added, *_ = self._store.transaction([self._addition(kept), *acknowledgement])
        self._metrics.count_applied(_TYPE, num_added)
        self._metrics.duplicates.inc(len(kept) - num_added)
        self._metrics.left_out.inc(len(entries) - len(kept))

    def rest(self) -> None:
        """Nothing is due between batches."""

    def _addition(self, entries: Sequence[Parsed[Impression]]) -> Command:
        marks = EventMarks(period_seconds=_MARK_SECONDS, now=self._clock.now())
        keys: list[bytes] = [applied_key(IMPRESSIONS)]
        arguments: list[bytes | int] = [marks.expires_at, ENTRY_FIELD]
        for entry in entries:
            mark = mark_of(entry.value.request_id, kind=_MARK)
            keys += marks.sets_of(mark)
            arguments += (mark.member, entry.payload)
        return ("EVAL", _ADD_NEW, len(keys), *keys, *arguments)

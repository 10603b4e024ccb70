"""Applies changes of the catalogue: the feed of items, their places and the log of applied changes, in one transaction.

The counter of the feed is watched. Every writer of the feed increments it, so two writers never assign the same
sequence or slot; and a process that dies has written all of a batch or nothing. A repeated change is recognised by its
time, see `changes`. If the store has lost the counter, numbers continue after the last one, see `numbering`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from feature_sync.items.changes import Outcome, Standing, place_changes
from feature_sync.items.numbering import Numbering
from feature_sync.store.connection import Command, StoreConnection
from feature_sync.stream.consumer import Parsed
from feature_sync.telemetry.metrics import StreamMetrics
from tandem.contract.errors import StreamEntryError
from tandem.contract.live_items import ItemPlace, item_places_key, items_feed
from tandem.contract.store import MAX_ID_BYTES
from tandem.contract.streams import ENTRY_FIELD, ITEM_CHANGES, AppliedItemChange, ItemChange, applied_key

_FEED = items_feed()
_PLACES = item_places_key()
_LOG = applied_key(ITEM_CHANGES)

_log = structlog.get_logger(__name__)


class ItemChangeApplier:
    """Applies entries of the stream of item changes."""

    def __init__(
        self,
        connection: StoreConnection,
        *,
        numbering: Numbering,
        metrics: StreamMetrics,
        on_applied: Callable[[], None],
    ) -> None:
        """`on_applied` is called after changes were applied, to make their vectors."""
        self._connection = connection
        self._numbering = numbering
        self._metrics = metrics
        self._on_applied = on_applied

    def parse(self, payload: bytes) -> ItemChange:
        """Reads an entry. Raises StreamEntryError."""
        change = ItemChange.from_bytes(payload)
        if not 0 < len(change.item_id.encode()) <= MAX_ID_BYTES:
            raise StreamEntryError(f"item change: item_id must have 1 to {MAX_ID_BYTES} bytes of UTF-8")
        return change

    def apply(self, entries: Sequence[Parsed[ItemChange]], acknowledgement: Sequence[Command]) -> None:
        """Applies each change once, even if it is repeated: all or nothing, with `acknowledgement` in the same
        transaction.

        Raises Unavailable, or StoreConflict if another writer was faster.
        """
        changes = [entry.value for entry in entries]
        outcome = place_changes(changes, self._read(sorted({change.item_id for change in changes})))
        self._connection.transaction([*_writes(outcome), *acknowledgement])
        self._count(outcome)
        if outcome.applied:
            self._numbering.give(outcome.applied[-1].sequence)
            self._on_applied()

    def rest(self) -> None:
        """Nothing is due between batches."""

    def _count(self, outcome: Outcome) -> None:
        num_deletes = sum(taken.change.deleted for taken in outcome.applied)
        self._metrics.count_applied("delete", num_deletes)
        self._metrics.count_applied("upsert", len(outcome.applied) - num_deletes)
        self._metrics.count_applied("unchanged", outcome.num_unchanged)
        self._metrics.duplicates.inc(outcome.num_stale)

    def _read(self, item_ids: Sequence[str]) -> Standing:
        # A batch that ended in an exception may have left the key watched.
        _, _, sequence, places, current = self._connection.run(
            [
                ("UNWATCH",),
                ("WATCH", _FEED.sequence),
                ("GET", _FEED.sequence),
                ("HMGET", _PLACES, *item_ids),
                ("HMGET", _FEED.values, *item_ids),
            ]
        )
        return Standing(
            sequence=self._numbering.last(int(sequence or 0)),
            places={i: ItemPlace.from_bytes(raw) for i, raw in zip(item_ids, places, strict=True) if raw is not None},
            current=_readable(item_ids, current),
        )


def _readable(item_ids: Sequence[str], values: Sequence[Any]) -> dict[str, AppliedItemChange]:
    current = {}
    for item_id, raw in zip(item_ids, values, strict=True):
        if raw is None:
            continue
        try:
            current[item_id] = AppliedItemChange.from_bytes(raw)
        except StreamEntryError as error:
            _log.warning("unreadable_item_replaced", item_id=item_id, error=str(error))
    return current


def _writes(outcome: Outcome) -> list[Command]:
    commands: list[Command] = []
    if outcome.places:
        pairs = [part for item_id, place in outcome.places.items() for part in (item_id, place.to_bytes())]
        commands.append(("HSET", _PLACES, *pairs))
    if not outcome.applied:
        return commands
    packed = [(taken, taken.to_bytes()) for taken in outcome.applied]
    newest = {taken.change.item_id: (taken, value) for taken, value in packed}
    values = [part for item_id, (_, value) in newest.items() for part in (item_id, value)]
    sequences = [part for item_id, (taken, _) in newest.items() for part in (taken.sequence, item_id)]
    commands += [
        ("HSET", _FEED.values, *values),
        ("ZADD", _FEED.changes, *sequences),
        ("SET", _FEED.sequence, outcome.applied[-1].sequence),
        *(("XADD", _LOG, "*", ENTRY_FIELD, value) for _, value in packed),
    ]
    return commands

"""Reads and prunes the feed of items, from which vectors are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feature_sync.core.errors import StoreConflict
from feature_sync.core.progress import report_progress
from feature_sync.store.connection import StoreConnection
from tandem.contract.live_items import items_feed
from tandem.contract.streams import AppliedItemChange

_FEED = items_feed()
_PAGE_ITEMS = 1_000


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some of the items that changed, in the order of their newest changes."""

    changes: tuple[AppliedItemChange, ...]
    position: int
    """The last sequence of the page; the next page begins after it."""


def read_page(connection: StoreConnection, *, after: int, max_items: int) -> Page | None:
    """The items whose newest change has a sequence above `after`; None if there are none. Raises StoreError."""
    flat = connection.call("ZRANGEBYSCORE", _FEED.changes, f"({after}", "+inf", "WITHSCORES", "LIMIT", 0, max_items)
    if not flat:
        return None
    values = connection.call("HMGET", _FEED.values, *flat[::2])
    position = int(float(flat[-1]))
    found = [AppliedItemChange.from_bytes(value) for value in values if value is not None]
    # An item that was pruned meanwhile is skipped, and an item that changed again is on a later page.
    return Page(changes=tuple(taken for taken in found if taken.sequence <= position), position=position)


def newest_sequence(connection: StoreConnection) -> int:
    """Sequence of the newest change; 0 before the first change. Raises StoreError."""
    return int(connection.call("GET", _FEED.sequence) or 0)


def raise_sequence(connection: StoreConnection, at_least: int) -> None:
    """Makes sequences continue after `at_least`, the last sequence that a bundle has merged.

    In an emptied store, sequences would restart at 1, and its first changes would be taken for merged ones. Raises
    StoreError.
    """
    while True:
        _, _, sequence = connection.run([("UNWATCH",), ("WATCH", _FEED.sequence), ("GET", _FEED.sequence)])
        if int(sequence or 0) >= at_least:
            connection.call("UNWATCH")
            return
        try:
            connection.transaction([("SET", _FEED.sequence, at_least)])
        except StoreConflict:
            continue


def prune(connection: StoreConnection, *, merged_sequence: int, changed_before: int) -> int:
    """Removes items from the feed that every live bundle has merged and that changed before a time in microseconds.

    `merged_sequence` is the last change that all live bundles have merged, so none of the removed items has a live
    vector under one of them. Deleted and unavailable items stay: after a rollback, an older bundle would recommend them
    again. Returns the number of removed items. Raises StoreError.
    """
    num_pruned = after = 0
    while (page := read_page(connection, after=after, max_items=_PAGE_ITEMS)) is not None and after < merged_sequence:
        report_progress()
        after = page.position
        item_ids = [
            taken.change.item_id
            for taken in page.changes
            if taken.sequence <= merged_sequence
            and taken.change.changed_at < changed_before
            and taken.change.available
            and not taken.change.deleted
        ]
        if item_ids and _remove(connection, item_ids, merged_sequence):
            num_pruned += len(item_ids)
    return num_pruned


def _remove(connection: StoreConnection, item_ids: Sequence[str], merged_sequence: int) -> bool:
    """Removes items, unless one of them changes meanwhile; then they are left to the next pruning."""
    _, _, scores = connection.run([("UNWATCH",), ("WATCH", _FEED.sequence), ("ZMSCORE", _FEED.changes, *item_ids)])
    if any(score is None or float(score) > merged_sequence for score in scores):
        connection.call("UNWATCH")
        return False
    try:
        connection.transaction([("HDEL", _FEED.values, *item_ids), ("ZREM", _FEED.changes, *item_ids)])
    except StoreConflict:
        return False
    return True

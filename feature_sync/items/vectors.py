"""Updates the vectors of changed items under one bundle: the feed that workers search beside their index.

A position records how far the vectors follow the feed of items. It moves in the transaction that writes the vectors, so
this can stop at any moment and continue from there. Two processes that do this for one bundle only duplicate the work.

A vector has the sequence of its change in this feed too. Both sequences continue after the store was emptied, so a
worker misses no vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from feature_sync.core.errors import StoreConflict
from feature_sync.items.feed import Page, raise_sequence, read_page
from feature_sync.store.connection import Command, StoreConnection
from feature_sync.towers.item_tower import ItemTower
from tandem.contract.live_items import LiveItemVector, item_vectors_feed, item_vectors_position_key

_PAGE_ITEMS: Final = 64
"""Items in one page: few enough that the first of a thousand items do not wait for the last."""


def position_of(connection: StoreConnection, model_version: str) -> int:
    """Sequence of the last change for which a version's vectors were made; 0 if there is none. Raises StoreError."""
    return int(connection.call("GET", item_vectors_position_key(model_version)) or 0)


class LiveVectors:
    """Vectors of changed items under one bundle."""

    def __init__(self, connection: StoreConnection, tower: ItemTower, *, ttl_seconds: int) -> None:
        """Every write renews the vectors' time to live, `ttl_seconds`; 0: they never expire."""
        self._connection = connection
        self._tower = tower
        self._ttl_seconds = ttl_seconds
        version = tower.manifest.model_version
        self._feed = item_vectors_feed(version)
        self._position = item_vectors_position_key(version)

    def begin(self) -> None:
        """Call it once, before `update`: skips the changes that the bundle was trained on. Raises StoreError."""
        raise_sequence(self._connection, self._tower.manifest.catalogue_sequence)

    def update(self) -> int | None:
        """Makes the vectors of the next changed items; returns their number, or None if no item has changed.

        Raises StoreError, TowerError, TextEncoderError.
        """
        while True:
            _, _, position = self._connection.run([("UNWATCH",), ("WATCH", self._position), ("GET", self._position)])
            after = max(int(position or 0), self._tower.manifest.catalogue_sequence)
            page = read_page(self._connection, after=after, max_items=_PAGE_ITEMS)
            if page is None:
                self._connection.call("UNWATCH")
                return None
            vectors = self._vectors(page)
            try:
                self._connection.transaction(self._writes(page, vectors))
            except StoreConflict:
                continue
            return len(vectors)

    def keep(self) -> None:
        """Renews the vectors' time to live. Raises StoreError."""
        if expiry := self._expiry():
            self._connection.run(expiry)

    def _writes(self, page: Page, vectors: Mapping[str, bytes]) -> list[Command]:
        gone = [taken.change.item_id for taken in page.changes if taken.change.item_id not in vectors]
        commands: list[Command] = []
        if gone:
            commands += [("HDEL", self._feed.values, *gone), ("ZREM", self._feed.changes, *gone)]
        if vectors:
            sequences = {taken.change.item_id: taken.sequence for taken in page.changes}
            commands += [
                ("HSET", self._feed.values, *(part for pair in vectors.items() for part in pair)),
                ("ZADD", self._feed.changes, *(part for item_id in vectors for part in (sequences[item_id], item_id))),
                ("SET", self._feed.sequence, page.position),
            ]
        return [*commands, ("SET", self._position, page.position), *self._expiry()]

    def _vectors(self, page: Page) -> dict[str, bytes]:
        """Packed vectors by item id, for those items of a page that may be recommended and for which the tower has
        inputs."""
        wanted = [taken for taken in page.changes if taken.change.available and not taken.change.deleted]
        if not wanted:
            return {}
        vectors = self._tower.vectors([taken.change for taken in wanted])
        return {
            taken.change.item_id: LiveItemVector(taken.sequence, values).to_bytes()
            for taken, values, is_known in zip(wanted, vectors.values, vectors.is_known, strict=True)
            if is_known
        }

    def _expiry(self) -> Sequence[Command]:
        if not self._ttl_seconds:
            return ()
        keys = (self._feed.values, self._feed.changes, self._feed.sequence, self._position)
        return [("EXPIRE", key, self._ttl_seconds) for key in keys]

"""Changes of the catalogue as feature_sync publishes them, written by hand: no code of feature_sync runs here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import redis.asyncio

from tandem.contract.live_items import Feed, LiveItemVector, item_vectors_feed, item_vectors_position_key, items_feed
from tandem.contract.streams import AppliedItemChange, ItemChange


def applied_change(
    item_id: str,
    sequence: int,
    slot: int,
    *,
    deleted: bool = False,
    available: bool = True,
    categories: Sequence[str] = (),
    attributes: Mapping[str, str] | None = None,
    changed_at: int = 0,
) -> AppliedItemChange:
    """A change; its title tells its sequence."""
    change = ItemChange(
        item_id=item_id,
        changed_at=changed_at,
        deleted=deleted,
        available=available,
        title=f"{item_id} at {sequence}",
        description="a long text",
        categories=tuple(categories),
        attributes=attributes or {},
    )
    return AppliedItemChange(sequence=sequence, slot=slot, change=change)


class Feeds:
    """Writes both feeds of a store."""

    def __init__(self, client: redis.asyncio.Redis, model_version: str, *, after: int = 0) -> None:
        """Sequences and slots begin after `after`, as they do where a store was emptied."""
        self._client = client
        self._vectors = item_vectors_feed(model_version)
        self._position = item_vectors_position_key(model_version)
        self._slots: dict[str, int] = {}
        self._sequence = self._vector_sequence = self._first_slot = after

    async def change(self, item_id: str, vector: npt.NDArray[np.float32] | None = None, **fields: object) -> int:
        """Publishes a change and, where one is given, the vector made from it. Returns the change's sequence."""
        self._sequence += 1
        slot = self._slots.setdefault(item_id, self._first_slot + len(self._slots))
        applied = applied_change(item_id, self._sequence, slot, **fields)  # type: ignore[arg-type]
        await self._write(items_feed(), item_id, self._sequence, applied.to_bytes())
        if vector is not None:
            await self.vector(item_id, self._sequence, vector)
        return self._sequence

    async def vector(self, item_id: str, change_sequence: int, vector: npt.NDArray[np.float32]) -> None:
        """Publishes a vector made from a change."""
        self._vector_sequence += 1
        value = LiveItemVector(change_sequence, vector).to_bytes()
        await self._write(self._vectors, item_id, self._vector_sequence, value)

    async def follow(self, change_sequence: int) -> None:
        """Publishes the sequence up to which every change has its vector, if it could be made."""
        await self._client.set(self._position, change_sequence)

    async def _write(self, feed: Feed, item_id: str, sequence: int, value: bytes) -> None:
        async with self._client.pipeline(transaction=True) as transaction:
            transaction.hset(feed.values.decode(), item_id, value)
            transaction.zadd(feed.changes.decode(), {item_id: sequence})
            transaction.set(feed.sequence, sequence)
            await transaction.execute()

"""The changes of items that a worker knows, independently of the bundle that it serves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from tandem.contract.streams import AppliedItemChange
from tandem.contract.vocabulary import Keys, id_key


def may_be_recommended(applied: AppliedItemChange) -> bool:
    """Whether the item may be recommended after the change."""
    return applied.change.available and not applied.change.deleted


class ItemChanges:
    """The newest change of each item, up to a limit on their number.

    Beyond the limit the oldest changes are evicted. A removal is remembered even then, as a key and a sequence. A
    change that leaves an item recommendable is put off until the next bundle: until then the item is recommended as
    the bundle has it, or not at all if the bundle lacks it.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._changes: OrderedDict[int, AppliedItemChange] = OrderedDict()
        self._removed_at: dict[int, int] = {}
        """Sequences of evicted removals, by the key of the item."""
        self.num_put_off = 0
        """Evicted changes that left their items recommendable, since the start."""

    def __len__(self) -> int:
        return len(self._changes)

    def __contains__(self, key: int) -> bool:
        """Whether the full change of the item with this key is kept."""
        return key in self._changes

    def __getitem__(self, key: int) -> AppliedItemChange:
        """The change of the item with this key. Raises KeyError."""
        return self._changes[key]

    def take(self, changes: Iterable[AppliedItemChange]) -> None:
        """Adds changes. Of two changes of one item, the newer one is kept."""
        for applied in changes:
            key = id_key(applied.change.item_id)
            known = self._changes.get(key)
            if known is not None and known.sequence >= applied.sequence:
                continue
            self._removed_at.pop(key, None)
            # Only the text encoder reads descriptions, and they are the longest part of a change.
            self._changes[key] = replace(applied, change=replace(applied.change, description=""))
            self._changes.move_to_end(key)
            if len(self._changes) > self._max_items:
                self._evict_oldest()

    def since(self, sequence: int) -> Iterator[tuple[int, AppliedItemChange]]:
        """Keys and changes whose sequence is higher than `sequence`, in no particular order."""
        return ((key, applied) for key, applied in self._changes.items() if applied.sequence > sequence)

    def removed_since(self, sequence: int) -> Keys:
        """Keys of items removed after `sequence` whose full change has been evicted: (n,) uint64."""
        return np.array([key for key, removed_at in self._removed_at.items() if removed_at > sequence], dtype=np.uint64)

    def forget_until(self, sequence: int) -> None:
        """Drops changes up to this sequence, which every bundle that may serve has in it."""
        for key in [key for key, applied in self._changes.items() if applied.sequence <= sequence]:
            del self._changes[key]
        self._removed_at = {key: removed_at for key, removed_at in self._removed_at.items() if removed_at > sequence}

    def _evict_oldest(self) -> None:
        key, applied = self._changes.popitem(last=False)
        if may_be_recommended(applied):
            self.num_put_off += 1
        else:
            self._removed_at[key] = applied.sequence

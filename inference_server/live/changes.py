"""The changes of the catalogue that a worker knows, whatever bundle it serves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from tandem.contract.streams import AppliedItemChange
from tandem.contract.vocabulary import Keys, id_key


def may_be_recommended(applied: AppliedItemChange) -> bool:
    """Whether a change leaves an item that can be recommended."""
    return applied.change.available and not applied.change.deleted


class ItemChanges:
    """The newest change of every item, up to a limit; that an item is gone is never forgotten.

    Beyond the limit the oldest changes go. What such a change says of an item that can be recommended waits for the
    next bundle: until then the bundle's word holds, and an item that the bundle lacks is not recommended.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._changes: OrderedDict[int, AppliedItemChange] = OrderedDict()
        self._gone: dict[int, int] = {}
        self.num_put_off = 0
        """Changes that went because there were more than the limit."""

    def __len__(self) -> int:
        return len(self._changes)

    def __contains__(self, key: int) -> bool:
        """Whether the change of the item with this key is kept in full."""
        return key in self._changes

    def __getitem__(self, key: int) -> AppliedItemChange:
        """The change of the item with this key."""
        return self._changes[key]

    def take(self, changes: Iterable[AppliedItemChange]) -> None:
        """Takes in changes; of two of one item the newer one holds."""
        for applied in changes:
            key = id_key(applied.change.item_id)
            known = self._changes.get(key)
            if known is not None and known.sequence >= applied.sequence:
                continue
            self._gone.pop(key, None)
            # Descriptions are for the encoder alone, and the longest part of a change.
            self._changes[key] = replace(applied, change=replace(applied.change, description=""))
            self._changes.move_to_end(key)
            if len(self._changes) > self._max_items:
                self._put_off()

    def since(self, sequence: int) -> Iterator[tuple[int, AppliedItemChange]]:
        """Keys and changes with a higher sequence, in no order."""
        return ((key, applied) for key, applied in self._changes.items() if applied.sequence > sequence)

    def gone_since(self, sequence: int) -> Keys:
        """Keys of items that are gone by changes with a higher sequence of which no more is known: (n,) uint64."""
        return np.array([key for key, of_change in self._gone.items() if of_change > sequence], dtype=np.uint64)

    def forget_until(self, sequence: int) -> None:
        """Drops changes up to this sequence: every bundle that may serve has them."""
        for key in [key for key, applied in self._changes.items() if applied.sequence <= sequence]:
            del self._changes[key]
        self._gone = {key: of_change for key, of_change in self._gone.items() if of_change > sequence}

    def _put_off(self) -> None:
        key, applied = self._changes.popitem(last=False)
        if may_be_recommended(applied):
            self.num_put_off += 1
        else:
            self._gone[key] = applied.sequence

"""The vectors of changed items that a worker has read, made with the item tower of one bundle."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import structlog

from inference_server.live.changes import ItemChanges
from tandem.contract.errors import StoreValueError
from tandem.contract.live_items import LiveItemVector
from tandem.contract.streams import AppliedItemChange
from tandem.contract.vocabulary import id_key

_log = structlog.get_logger()


class ItemVectors:
    """The newest vector of each item whose change is known."""

    def __init__(self, dim: int) -> None:
        """`dim` is the dimension of the bundle's vectors."""
        self._dim = dim
        self.by_key: dict[int, LiveItemVector] = {}
        """Vectors by the keys of their items."""

    def take(self, values: Iterable[tuple[bytes, bytes]], changes: ItemChanges) -> list[int]:
        """Adds packed vectors, given with item ids. A vector that cannot be used is logged and left out.

        Returns the keys of the items whose vectors were added.
        """
        keys = []
        for item, value in values:
            item_id = item.decode(errors="replace")
            key = id_key(item_id)
            if key not in changes:
                continue
            try:
                vector = LiveItemVector.from_bytes(value)
            except StoreValueError as error:
                _log.warning("live_item_vector_refused", item_id=item_id, reason=str(error))
                continue
            if len(vector.values) != self._dim or not np.isfinite(vector.values).all():
                _log.warning("live_item_vector_refused", item_id=item_id, reason="wrong dimension, or not finite")
                continue
            self.by_key[key] = vector
            keys.append(key)
        return keys

    def has(self, key: int, applied: AppliedItemChange) -> bool:
        """Whether the vector of the item with this key was made from exactly this change."""
        vector = self.by_key.get(key)
        return vector is not None and vector.is_of(applied.sequence)

    def keep_known(self, changes: ItemChanges) -> None:
        """Drops the vectors of items whose change is no longer known."""
        if len(self.by_key) > len(changes):
            self.by_key = {key: vector for key, vector in self.by_key.items() if key in changes}

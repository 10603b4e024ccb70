"""The live catalogue: items that changed since the bundle was made, as feature_sync publishes and workers read them.

Two feeds of one shape. A feed is a hash (item id -> value), a sorted set (item id -> sequence of its last change) and
a counter (the newest sequence), written together in one transaction. Whoever follows a feed reads the counter, and
where it has grown, the items with a higher sequence than the last one read, and their values.

| feed                                  | value               |
| ------------------------------------- | ------------------- |
| `tandem/1/items`                      | `AppliedItemChange` of every item that was ever changed |
| `tandem/1/item-vectors/{model_version}` | `LiveItemVector` of those of them that have a vector under this bundle |

The first is independent of models, so that a deleted item is gone under a bundle that no vector was made for yet. An
item whose vector is missing, or was made from another change than the newest, waits: it is not recommended. The feed of
vectors has a counter of its own, because a bundle gets its vectors after changes were made; a vector has its change's
sequence. A counter that is lower than the one read before is that of a new feed, the old one having expired: it is
read from the start.

Beside the feeds, for feature_sync:

| key                                              | value                                                       |
| ------------------------------------------------ | ----------------------------------------------------------- |
| `tandem/1/items/places`                          | hash: item id -> `ItemPlace`, which outlives its feed entry |
| `tandem/1/item-vectors/{model_version}/position` | sequence of the last change that vectors were made for      |

An item's entry is taken out of the feeds once every bundle that may be served has merged it. Its place stays: another
change of the item gets the same slot, and an older change that comes late is still recognised.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.errors import StoreValueError
from tandem.contract.store import KEY_PREFIX

_PLACE_FORMAT: Final = 1
_PLACE: Final = struct.Struct("<B3xIq")  # format, slot, time of the newest change
_VECTOR_FORMAT: Final = 1
_VECTOR_HEADER: Final = struct.Struct("<B3xIQ")  # format, dimension, sequence of the change it was computed from


@dataclass(frozen=True, slots=True)
class Feed:
    """The keys of one feed."""

    values: bytes
    """Hash: item id -> value."""
    changes: bytes
    """Sorted set: item id -> sequence of its last change."""
    sequence: bytes
    """Counter: the newest sequence."""


def items_feed() -> Feed:
    """What the catalogue says of every item that was changed."""
    return _feed(KEY_PREFIX + b"items")


def item_vectors_feed(model_version: str) -> Feed:
    """Vectors of changed items under one bundle. Vectors of two versions live in two spaces and must never meet."""
    return _feed(KEY_PREFIX + b"item-vectors/" + model_version.encode())


def item_places_key() -> bytes:
    """Key of the places of all items that were ever changed."""
    return items_feed().values + b"/places"


def item_vectors_position_key(model_version: str) -> bytes:
    """Key that says how far a bundle's vectors follow the feed of items: a sequence of that feed, in decimal."""
    return item_vectors_feed(model_version).values + b"/position"


def _feed(name: bytes) -> Feed:
    return Feed(values=name, changes=name + b"/changes", sequence=name + b"/sequence")


@dataclass(frozen=True, slots=True)
class ItemPlace:
    """What is kept of an item for ever."""

    slot: int
    """See `AppliedItemChange.slot`."""
    changed_at: int
    """Time of its newest change, microseconds since 1970: an earlier one has no effect any more."""

    def to_bytes(self) -> bytes:
        """Packs the place."""
        return _PLACE.pack(_PLACE_FORMAT, self.slot, self.changed_at)

    @classmethod
    def from_bytes(cls, value: bytes) -> ItemPlace:
        """Reads a packed place. Raises StoreValueError."""
        if len(value) != _PLACE.size or value[0] != _PLACE_FORMAT:
            raise StoreValueError(f"place of an item: not format {_PLACE_FORMAT}")
        _, slot, changed_at = _PLACE.unpack(value)
        return cls(slot, changed_at)


@dataclass(frozen=True)
class LiveItemVector:
    """What a bundle's item tower makes of a changed item."""

    change_sequence: int
    """`AppliedItemChange.sequence` of the change that it was computed from."""
    values: npt.NDArray[np.float32]
    """(dim,) float32."""

    def is_of(self, change_sequence: int) -> bool:
        """Whether it was computed from this very change."""
        return self.change_sequence == change_sequence

    def to_bytes(self) -> bytes:
        """Packs the vector: header, then float32 values."""
        return (
            _VECTOR_HEADER.pack(_VECTOR_FORMAT, len(self.values), self.change_sequence)
            + np.asarray(self.values, dtype="<f4").tobytes()
        )

    @classmethod
    def from_bytes(cls, value: bytes) -> LiveItemVector:
        """Reads a packed vector; its array is a read-only view of `value`. Raises StoreValueError."""
        if len(value) < _VECTOR_HEADER.size or value[0] != _VECTOR_FORMAT:
            raise StoreValueError(f"live item vector: not format {_VECTOR_FORMAT}")
        _, dim, change_sequence = _VECTOR_HEADER.unpack_from(value)
        if len(value) != _VECTOR_HEADER.size + 4 * dim:
            raise StoreValueError(f"live item vector: {len(value)} bytes do not hold {dim} float32 values")
        return cls(change_sequence, np.frombuffer(value, "<f4", dim, _VECTOR_HEADER.size))

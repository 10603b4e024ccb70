"""The live catalogue: items that changed since the bundle was made, as feature_sync publishes and workers read them.

There are two feeds of the same structure. A feed is a hash (item id -> value), a sorted set (item id -> sequence of its
last change) and a counter (the newest sequence), all written in one transaction. A follower reads the counter; if it
has grown, it reads the items whose sequence is higher than the last one it has seen, and their values.

| feed                                  | value               |
| ------------------------------------- | ------------------- |
| `tandem/1/items`                      | `AppliedItemChange` of every changed item |
| `tandem/1/item-vectors/{model_version}` | `LiveItemVector` of every changed item that has a vector under this bundle |

The first feed is independent of models, so that a deleted item disappears even under a bundle without live vectors. An
item whose vector is missing, or was computed from a change other than the newest, waits: it is not recommended. The
vector feed has its own counter, because a bundle's vectors are computed after the changes; each vector carries the
sequence of its change. A counter that went down belongs to a new feed, the old one having expired: the follower reads
it from the start.

Keys for feature_sync alone:

| key                                              | value                                                       |
| ------------------------------------------------ | ----------------------------------------------------------- |
| `tandem/1/items/places`                          | hash: item id -> `ItemPlace`, which outlives its feed entry |
| `tandem/1/item-vectors/{model_version}/position` | sequence of the last change whose vectors are computed      |

An item's entry is removed from the feeds once every bundle that may be served has merged it. Its `ItemPlace` stays:
later changes of the item get the same slot, and an older change that arrives late is still recognised.
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
    """The Redis keys of a feed."""

    values: bytes
    """Hash: item id -> value."""
    changes: bytes
    """Sorted set: item id -> sequence of its last change."""
    sequence: bytes
    """Counter: the newest sequence."""


def items_feed() -> Feed:
    """The feed of changed items."""
    return _feed(KEY_PREFIX + b"items")


def item_vectors_feed(model_version: str) -> Feed:
    """The feed of changed items' vectors for one bundle. Vectors of different versions are not comparable."""
    return _feed(KEY_PREFIX + b"item-vectors/" + model_version.encode())


def item_places_key() -> bytes:
    """Key of the hash that holds the `ItemPlace` of every item that was ever changed."""
    return items_feed().values + b"/places"


def item_vectors_position_key(model_version: str) -> bytes:
    """Key of the last sequence of the item feed whose vectors are computed for a bundle, in decimal."""
    return item_vectors_feed(model_version).values + b"/position"


def _feed(name: bytes) -> Feed:
    return Feed(values=name, changes=name + b"/changes", sequence=name + b"/sequence")


@dataclass(frozen=True, slots=True)
class ItemPlace:
    """The record of a changed item that outlives its feed entry."""

    slot: int
    """See `AppliedItemChange.slot`."""
    changed_at: int
    """Time of its newest change, microseconds since 1970; an earlier change has no effect."""

    def to_bytes(self) -> bytes:
        """Packs the record."""
        return _PLACE.pack(_PLACE_FORMAT, self.slot, self.changed_at)

    @classmethod
    def from_bytes(cls, value: bytes) -> ItemPlace:
        """Unpacks a record. Raises StoreValueError."""
        if len(value) != _PLACE.size or value[0] != _PLACE_FORMAT:
            raise StoreValueError(f"place of an item: not format {_PLACE_FORMAT}")
        _, slot, changed_at = _PLACE.unpack(value)
        return cls(slot, changed_at)


@dataclass(frozen=True)
class LiveItemVector:
    """The output of a bundle's item tower for a changed item."""

    change_sequence: int
    """`AppliedItemChange.sequence` of the change it was computed from."""
    values: npt.NDArray[np.float32]
    """(dim,) float32."""

    def is_of(self, change_sequence: int) -> bool:
        """Whether it was computed from this change."""
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

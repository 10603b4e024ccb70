"""External id <-> 64-bit key <-> row number.

The online store and the bundle identify items by a 64-bit key (BLAKE2b of the id) instead of text. A user's state is
then a flat array that needs no parsing, a thousand keys become rows in one vectorised search, and no worker needs a
dict of a million strings. If two ids of a catalogue have the same key (odds 3e-8 at a million items), the vocabulary is
refused when it is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from tandem.contract.errors import BundleIncompatible

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

NO_KEYS: Final[Keys] = np.empty(0, dtype=np.uint64)
NO_ROWS: Final[Rows] = np.empty(0, dtype=np.int64)
_KEYS_AT_ONCE = 65_536
_MAX_BUCKET_BITS = 19
"""Most leading bits used as a bucket number: the buckets of a million rows take 2 MB."""

MISSING_ROW = -1
"""The row of an id that a vocabulary does not hold."""


def id_key(external_id: str) -> int:
    """The 64-bit key of an external id: the first 8 bytes of its BLAKE2b digest, little-endian."""
    return int.from_bytes(hashlib.blake2b(external_id.encode(), digest_size=8).digest(), "little")


def id_keys(external_ids: Iterable[str]) -> Keys:
    """Keys of many ids. Returns (n,) uint64."""
    digest = hashlib.blake2b
    return np.frombuffer(b"".join(digest(i.encode(), digest_size=8).digest() for i in external_ids), dtype="<u8")


@dataclass(frozen=True)
class SortedKeys:
    """Keys in ascending order, with an index of buckets: the structure that lookups search."""

    keys: Keys
    """(n,) uint64, ascending."""
    rows: Rows
    """(n,) int64, the row of each key."""
    bucket_starts: npt.NDArray[np.int32]
    """(buckets + 1,) int32: offset of the first sorted key of each bucket. The leading bits of a key are the number of
    its bucket; there are 2^bits buckets."""


@dataclass(frozen=True)
class Vocabulary:
    """Maps keys to rows 0..n-1. A key it does not hold has the row `MISSING_ROW`."""

    keys: Keys
    """(n,) uint64, the key of each row."""
    sorted_keys: InitVar[SortedKeys | None] = None
    """The sorted keys, if a bundle has them as files, which processes map and share. None: they are computed here, in
    this process's own memory."""
    lookup: SortedKeys = field(init=False, repr=False, compare=False)

    def __post_init__(self, sorted_keys: SortedKeys | None) -> None:
        object.__setattr__(self, "lookup", _sort(np.asarray(self.keys)) if sorted_keys is None else sorted_keys)

    @classmethod
    def from_ids(cls, external_ids: Iterable[str]) -> Self:
        """A vocabulary whose row order is the order of the ids. Raises BundleIncompatible when an id repeats."""
        return cls(id_keys(external_ids))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def content_hash(self) -> str:
        """SHA-256 over the keys in row order, hex."""
        return hashlib.sha256(np.ascontiguousarray(self.keys, dtype="<u8").data).hexdigest()

    def rows_of_keys(self, keys: Keys) -> Rows:
        """Rows of keys. (n,) uint64 -> (n,) int64, `MISSING_ROW` where the key is unknown."""
        lookup = self.lookup
        ordered = lookup.keys
        if len(ordered) == 0:
            return np.full(len(keys), MISSING_ROW, dtype=np.int64)
        last = len(ordered) - 1
        # All keys walk up from the start of their bucket together; most are found at once, and each step leaves fewer.
        # A binary search takes 2 to 4 times as long for a batch, because it jumps through memory for each key.
        positions = np.minimum(lookup.bucket_starts[keys >> _shift(lookup.bucket_starts)], last)
        below = np.flatnonzero(ordered[positions] < keys)
        while len(below):
            positions[below] += 1
            below = below[positions[below] <= last]
            below = below[ordered[positions[below]] < keys[below]]
        np.minimum(positions, last, out=positions)
        return np.where(ordered[positions] == keys, lookup.rows[positions], MISSING_ROW)

    def rows(self, external_ids: Iterable[str]) -> Rows:
        """Rows of ids. Returns (n,) int64, `MISSING_ROW` where the id is unknown."""
        return self.rows_of_keys(id_keys(external_ids))


def bucket_starts(ordered: Keys) -> npt.NDArray[np.int32]:
    """Computes `SortedKeys.bucket_starts`. Keys are uniform hashes, so the leading bits give a key's position to within
    a few keys."""
    bits = min(len(ordered).bit_length() + 1, _MAX_BUCKET_BITS)
    starts = np.zeros((1 << bits) + 1, dtype=np.int32)
    # In chunks: the peak allocation while a worker opens a bundle stays with it as resident memory.
    for begin in range(0, len(ordered), _KEYS_AT_ONCE):
        buckets = (ordered[begin : begin + _KEYS_AT_ONCE] >> _shift(starts)).astype(np.int64)
        counts = np.bincount(buckets - buckets[0])
        starts[buckets[0] + 1 : buckets[-1] + 2] += counts.astype(np.int32)
    return np.cumsum(starts, out=starts)


def _shift(starts: npt.NDArray[np.int32]) -> np.uint64:
    """Right shift that turns a key into its bucket number."""
    return np.uint64(65 - len(starts).bit_length())


def _sort(keys: Keys) -> SortedKeys:
    """Sorts keys. Raises BundleIncompatible if a key repeats."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    if len(ordered) > 1 and bool((ordered[1:] == ordered[:-1]).any()):
        raise BundleIncompatible("vocabulary: two ids have the same key (a repeated id, or a collision of 64-bit keys)")
    return SortedKeys(ordered, order.astype(np.int64), bucket_starts(ordered))

"""What the stages ask of a catalogue by row: ids, vectors, titles, popularity, and which rows pass a filter.

This is a bundle's own catalogue. `live.catalogue` puts the items around it that changed since, behind the same methods,
so that no stage has to know of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from inference_server.core.query import AttributePredicate, Clause
from inference_server.model.catalogue.bitmap import Bitmap, bitmap_of_mask, without_rows
from inference_server.model.catalogue.clause_filter import ClauseFilter
from tandem.contract.bundle import Bundle
from tandem.contract.features import KeyRows, RowVectors
from tandem.contract.names import CATEGORY_SEGMENT, SEGMENT_ALL
from tandem.contract.vocabulary import MISSING_ROW, Keys, Rows, id_keys

_MAX_CACHED_FILTERS: Final = 64
"""Filters kept as bitmaps; at a million items these are 8 MB."""
_MAX_CACHED_LISTS: Final = 64
"""Long exclude lists kept as keys; of 10,000 ids each they are 5 MB."""
_ROWS_PER_CHUNK: Final = 4096
FEW_ROWS: Final = 4_000
"""A filter that leaves no more items than this is answered by scoring these: the lists of an index that hold them are
too many."""


@dataclass(frozen=True, slots=True)
class ItemMask:
    """A filter as rows. Shared between requests: read only."""

    bitmap: Bitmap
    num_items: int
    """How many rows pass."""
    rows: Rows | None
    """(num_items,) int64, ascending; None where there are more than FEW_ROWS."""

    @classmethod
    def of_bitmap(cls, bitmap: Bitmap, num_items: int) -> ItemMask:
        """A mask over `num_items` items."""
        count = int(np.bitwise_count(bitmap).sum())
        rows = np.flatnonzero(np.unpackbits(bitmap, count=num_items, bitorder="little")) if count <= FEW_ROWS else None
        bitmap.flags.writeable = False
        return cls(bitmap, count, rows)


class Catalogue:
    """The items of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.num_items = len(bundle.items)
        """Rows are 0 to this, less one."""
        self.vocabulary: KeyRows = bundle.item_vocabulary
        self.vectors: RowVectors = np.asarray(bundle.item_vectors)
        self.alive: Bitmap | None = None
        """The rows that may be recommended at all; None: all."""
        self._bundle = bundle
        self._popularity = bundle.items.popularity
        self._filter = ClauseFilter(bundle.items, bundle.rows_by_category)
        self._top_items = {segment: _without_repeats(rows) for segment, rows in bundle.top_items.items()}
        self._lists: OrderedDict[bytes, Keys] = OrderedDict()
        self._forget_masks()

    def _forget_masks(self) -> None:
        self._masks: OrderedDict[tuple[Clause, ...], ItemMask] = OrderedDict()
        self._masks_with_lists: OrderedDict[tuple[tuple[Clause, ...], bytes], ItemMask] = OrderedDict()

    def rows_of_ids(self, item_ids: Sequence[str]) -> Rows:
        """Rows of the ids that the catalogue holds: (n,) int64."""
        return self.known_rows(id_keys(item_ids))

    def known_rows(self, keys: Keys) -> Rows:
        """Rows of the keys that the catalogue holds: (n,) uint64 -> (m,) int64, m <= n."""
        rows = self.vocabulary.rows_of_keys(keys)
        known: Rows = rows[rows != MISSING_ROW]
        return known

    def item_ids(self, rows: Rows) -> list[str]:
        """Ids of rows, (n,) int64."""
        return self._bundle.items.item_ids(rows)

    def title(self, row: int) -> str:
        """Title of a row; empty where the catalogue has none."""
        return self._bundle.items.title(row)

    def popularity_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Interactions in the training data: (n,) int64 -> (n,) int64."""
        counts: npt.NDArray[np.int64] = self._popularity[rows]
        return counts

    def categories_of(self, rows: Rows) -> list[list[str]]:
        """Categories of rows, (n,) int64."""
        return self._bundle.items.categories_of(rows)

    def category_codes_of(self, rows: Rows) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Categories of some rows, (n,) int64, as codes padded with -1: (n, most) int64; code i is names[i]."""
        known: dict[str, int] = {}
        codes = [[known.setdefault(name, len(known)) for name in of_item] for of_item in self.categories_of(rows)]
        padded = np.full((len(rows), max(map(len, codes), default=0)), -1, dtype=np.int64)
        for place, of_item in enumerate(codes):
            padded[place, : len(of_item)] = of_item
        return list(known), padded

    def recommendable(self, rows: Rows) -> Rows:
        """Those of some rows, (n,) int64, that may be recommended at all."""
        return rows

    def lasting_rows(self, rows: Rows) -> Rows:
        """Rows, (n,) int64, in numbers that keep their meaning as long as the bundle is served, in every worker."""
        return rows

    def rows_of_lasting(self, lasting: Rows) -> Rows:
        """Rows of such numbers, (n,) int64 each; MISSING_ROW for an item that this catalogue does not hold."""
        return lasting

    def mask(self, clauses: tuple[Clause, ...]) -> ItemMask:
        """Rows that meet every clause and may be recommended."""
        mask = self._masks.get(clauses)
        if mask is None:
            mask = _remember(self._masks, clauses, self._make_mask(clauses), _MAX_CACHED_FILTERS)
        return mask

    def mask_without(self, clauses: tuple[Clause, ...], digest: bytes) -> ItemMask:
        """As `mask`, less the items of the long list with this digest, which must be known."""
        mask = self._masks_with_lists.get((clauses, digest))
        if mask is None:
            bitmap = without_rows(self.mask(clauses).bitmap, self.known_rows(self._lists[digest]))
            mask = ItemMask.of_bitmap(bitmap, self.num_items)
            _remember(self._masks_with_lists, (clauses, digest), mask, _MAX_CACHED_FILTERS)
        return mask

    def knows_list(self, digest: bytes) -> bool:
        """Whether a long exclude list came before, and is still known."""
        return digest in self._lists

    def remember_list(self, digest: bytes, keys: Keys) -> None:
        """Keeps the keys of the items of a long exclude list, (n,) uint64."""
        _remember(self._lists, digest, keys, _MAX_CACHED_LISTS)

    def popular_rows(self, include_categories: tuple[str, ...]) -> Iterator[Rows]:
        """All rows in chunks, most popular first: the bundle's list for the segment, then the whole catalogue.

        The segment is the category's where exactly one is included and the bundle has a list for it, else everyone's.
        Rows of the list come a second time with the catalogue.
        """
        segment = CATEGORY_SEGMENT + include_categories[0] if len(include_categories) == 1 else SEGMENT_ALL
        yield self._top_items.get(segment, self._top_items[SEGMENT_ALL])
        by_popularity = self._bundle.rows_by_popularity
        for start in range(0, len(by_popularity), _ROWS_PER_CHUNK):
            yield by_popularity[start : start + _ROWS_PER_CHUNK]

    def top_rows(self, count: int) -> Rows:
        """The first rows of everyone's list of popular items: (n,) int64, n <= count."""
        return self._top_items[SEGMENT_ALL][:count]

    def check(self, predicates: Sequence[AttributePredicate], *, field: str) -> None:
        """See `ClauseFilter.check`."""
        self._filter.check(predicates, field=field)

    def _make_mask(self, clauses: tuple[Clause, ...]) -> ItemMask:
        return ItemMask.of_bitmap(bitmap_of_mask(self._filter.passes(clauses)), self.num_items)


_K = TypeVar("_K")
_V = TypeVar("_V")


def _remember(cache: OrderedDict[_K, _V], key: _K, value: _V, most: int) -> _V:
    """The newest `most` are kept."""
    cache[key] = value
    if len(cache) > most:
        cache.popitem(last=False)
    return value


def _without_repeats(rows: Rows) -> Rows:
    return rows[np.sort(np.unique(rows, return_index=True)[1])]

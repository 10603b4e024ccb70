"""What the stages ask of a bundle's catalogue besides vectors: which rows pass a filter, and which are popular."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from inference_server.bitmap import Bitmap, bitmap_of_mask, without_rows
from inference_server.errors import InvalidRequest
from inference_server.query import AttributePredicate, Clause
from tandem.contract.bundle import Bundle
from tandem.contract.items import AttributeColumn
from tandem.contract.names import CATEGORY_SEGMENT, SEGMENT_ALL
from tandem.contract.vocabulary import MISSING_ROW, Rows

_MAX_CACHED_FILTERS: Final = 64
"""Filters kept as bitmaps; at a million items these are 8 MB."""
_MAX_CACHED_LISTS: Final = 64
"""Long exclude lists kept as rows; of 10,000 ids each they are 5 MB."""
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
    """Filters and popularity order of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.popularity = bundle.items.popularity
        """(items,) int64, interactions in the training data."""
        self._bundle = bundle
        self._top_items = {segment: _without_repeats(rows) for segment, rows in bundle.top_items.items()}
        self._rows_by_category = bundle.rows_by_category
        self._rows_by_popularity: Rows = bundle.rows_by_popularity
        self._attributes: dict[str, AttributeColumn | None] = {}
        self._masks: OrderedDict[tuple[Clause, ...], ItemMask] = OrderedDict()
        self._lists: OrderedDict[bytes, Rows] = OrderedDict()
        self._masks_with_lists: OrderedDict[tuple[tuple[Clause, ...], bytes], ItemMask] = OrderedDict()

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""
        return len(self.popularity)

    def mask(self, clauses: tuple[Clause, ...]) -> ItemMask:
        """Rows that meet every clause."""
        mask = self._masks.get(clauses)
        if mask is None:
            mask = _remember(self._masks, clauses, self._make_mask(clauses), _MAX_CACHED_FILTERS)
        return mask

    def mask_without(self, clauses: tuple[Clause, ...], digest: bytes, rows: Rows) -> ItemMask:
        """As `mask`, less the rows of the long list with this digest."""
        mask = self._masks_with_lists.get((clauses, digest))
        if mask is None:
            bitmap = without_rows(self.mask(clauses).bitmap, rows)
            mask = ItemMask.of_bitmap(bitmap, self.num_items)
            _remember(self._masks_with_lists, (clauses, digest), mask, _MAX_CACHED_FILTERS)
        return mask

    def known_list(self, digest: bytes) -> Rows | None:
        """The rows of a long exclude list that came before; None where it is new."""
        return self._lists.get(digest)

    def remember_list(self, digest: bytes, rows: Rows) -> None:
        """Keeps the rows of a long exclude list."""
        _remember(self._lists, digest, rows, _MAX_CACHED_LISTS)

    def rows_of_category(self, category: str) -> Rows:
        """(n,) int64, ascending."""
        return self._rows_by_category.get(category, _NO_ROWS)

    def category_codes_of(self, rows: Rows) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Categories of some rows, (n,) int64, as codes padded with -1: (n, most) int64; code i is names[i]."""
        known: dict[str, int] = {}
        codes = [
            [known.setdefault(name, len(known)) for name in of_item]
            for of_item in self._bundle.items.categories_of(rows)
        ]
        padded = np.full((len(rows), max(map(len, codes), default=0)), -1, dtype=np.int64)
        for place, of_item in enumerate(codes):
            padded[place, : len(of_item)] = of_item
        return list(known), padded

    def popular_rows(self, include_categories: tuple[str, ...]) -> Iterator[Rows]:
        """All rows in chunks, most popular first: the bundle's list for the segment, then the whole catalogue.

        The segment is the category's where exactly one is included and the bundle has a list for it, else everyone's.
        Rows of the list come a second time with the catalogue.
        """
        segment = CATEGORY_SEGMENT + include_categories[0] if len(include_categories) == 1 else SEGMENT_ALL
        yield self._top_items.get(segment, self._top_items[SEGMENT_ALL])
        for start in range(0, self.num_items, _ROWS_PER_CHUNK):
            yield self._rows_by_popularity[start : start + _ROWS_PER_CHUNK]

    def top_rows(self, count: int) -> Rows:
        """The first rows of everyone's list of popular items: (n,) int64, n <= count."""
        return self._top_items[SEGMENT_ALL][:count]

    def check(self, predicates: Sequence[AttributePredicate], *, field: str) -> None:
        """Raises InvalidRequest, which names the entry of `field`, for a predicate that an attribute cannot have."""
        for place, predicate in enumerate(predicates):
            if predicate.min is None and predicate.max is None:
                continue
            column = self._attribute(predicate.name)
            if column is not None and column.numbers is None:
                bound = "min" if predicate.min is not None else "max"
                raise InvalidRequest(f"{field}[{place}].{bound}", f"values of {predicate.name!r} are not numbers")

    def meets(self, predicate: AttributePredicate) -> npt.NDArray[np.bool_]:
        """Which items meet a predicate: (items,) bool. A text meets no bound: an operator's rule may name one that this
        catalogue has no numbers for, and no caller is to blame."""
        column = self._attribute(predicate.name)
        if column is None:
            lacking = predicate.any_of or predicate.min is not None or predicate.max is not None
            return np.full(self.num_items, not lacking)
        met = np.ones(len(column.values) + 1, dtype=np.bool_)  # the last one stands for items without the attribute
        if predicate.any_of:
            met[:-1] &= np.isin(column.values, predicate.any_of)
            met[-1] = False
        if predicate.none_of:
            met[:-1] &= ~np.isin(column.values, predicate.none_of)
        if predicate.min is not None or predicate.max is not None:
            met[-1] = False
            if column.numbers is None:
                met[:] = False
            else:
                if predicate.min is not None:
                    met[:-1] &= column.numbers >= predicate.min
                if predicate.max is not None:
                    met[:-1] &= column.numbers <= predicate.max
        by_item: npt.NDArray[np.bool_] = met[column.codes]
        return by_item

    def _attribute(self, name: str) -> AttributeColumn | None:
        if name not in self._attributes:
            column = self._bundle.items.attribute(name)
            if column is None:
                return None  # not kept: callers could fill the memory with names that do not exist
            self._attributes[name] = column
        return self._attributes[name]

    def _make_mask(self, clauses: tuple[Clause, ...]) -> ItemMask:
        mask = np.ones(self.num_items, dtype=np.bool_)
        for clause in clauses:
            if clause.include_categories:
                included = np.zeros(self.num_items, dtype=np.bool_)
                for category in clause.include_categories:
                    included[self.rows_of_category(category)] = True
                mask &= included
            for category in clause.exclude_categories:
                mask[self.rows_of_category(category)] = False
            for predicate in clause.attributes:
                mask &= self.meets(predicate)
        return ItemMask.of_bitmap(bitmap_of_mask(mask), self.num_items)

    def rows_of_ids(self, item_ids: Sequence[str]) -> Rows:
        """Rows of the ids that the catalogue holds: (n,) int64."""
        rows = self._bundle.item_vocabulary.rows(item_ids)
        known: Rows = rows[rows != MISSING_ROW]
        return known


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


_NO_ROWS: Final[Rows] = np.empty(0, dtype=np.int64)

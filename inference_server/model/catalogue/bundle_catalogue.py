"""The catalogue of a bundle alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from inference_server.core.query import AttributePredicate, Clause
from inference_server.model.catalogue.bitmap import Bitmap, bitmap_of_mask
from inference_server.model.catalogue.clause_filter import ClauseFilter
from inference_server.model.catalogue.filter_cache import FilterCache
from inference_server.model.catalogue.filtered_catalogue import FilteredCatalogue
from inference_server.model.catalogue.item_mask import ItemMask
from tandem.contract.bundle import Bundle
from tandem.contract.features import KeyRows, RowVectors
from tandem.contract.names import CATEGORY_SEGMENT, SEGMENT_ALL
from tandem.contract.vocabulary import MISSING_ROW, Rows

_ROWS_PER_CHUNK: Final = 4096


class BundleCatalogue(FilteredCatalogue):
    """The items of one bundle, see `Catalogue`: all may be recommended, and their rows are stable."""

    def __init__(self, bundle: Bundle, filters: FilterCache) -> None:
        """`filters` is this catalogue's alone."""
        super().__init__(filters)
        self.num_items = len(bundle.items)
        self.vocabulary: KeyRows = bundle.item_vocabulary
        self.vectors: RowVectors = np.asarray(bundle.item_vectors)
        self.alive: Bitmap | None = None
        self._bundle = bundle
        self._popularity = bundle.items.popularity
        self._clause_filter = ClauseFilter(bundle.items, bundle.rows_by_category)
        self.clause_filters: tuple[ClauseFilter, ...] = (self._clause_filter,)
        self._top_items = {segment: _without_repeats(rows) for segment, rows in bundle.top_items.items()}

    def item_ids(self, rows: Rows) -> list[str]:
        """See `Catalogue.item_ids`."""
        return self._bundle.items.item_ids(rows)

    def title(self, row: int) -> str:
        """See `Catalogue.title`."""
        return self._bundle.items.title(row)

    def popularity_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        """See `Catalogue.popularity_of`."""
        counts: npt.NDArray[np.int64] = self._popularity[rows]
        return counts

    def categories_of(self, rows: Rows) -> list[list[str]]:
        """See `Catalogue.categories_of`."""
        return self._bundle.items.categories_of(rows)

    def recommendable(self, rows: Rows) -> Rows:
        """See `Catalogue.recommendable`."""
        return rows

    def stable_rows(self, rows: Rows) -> Rows:
        """See `Catalogue.stable_rows`."""
        return rows

    def rows_of_stable(self, stable: Rows) -> Rows:
        """See `Catalogue.rows_of_stable`. Other workers may know appended items already, which have higher numbers."""
        return np.where(stable < self.num_items, stable, MISSING_ROW)

    def popular_rows(self, include_categories: tuple[str, ...]) -> Iterator[Rows]:
        """See `Catalogue.popular_rows`."""
        segment = CATEGORY_SEGMENT + include_categories[0] if len(include_categories) == 1 else SEGMENT_ALL
        yield self._top_items.get(segment, self._top_items[SEGMENT_ALL])
        by_popularity = self._bundle.rows_by_popularity
        for start in range(0, len(by_popularity), _ROWS_PER_CHUNK):
            yield by_popularity[start : start + _ROWS_PER_CHUNK]

    def top_rows(self, count: int) -> Rows:
        """See `Catalogue.top_rows`."""
        return self._top_items[SEGMENT_ALL][:count]

    def check(self, predicates: Sequence[AttributePredicate], *, field: str) -> None:
        """See `Catalogue.check`."""
        self._clause_filter.check(predicates, field=field)

    def _make_mask(self, clauses: tuple[Clause, ...]) -> ItemMask:
        return ItemMask.from_bitmap(bitmap_of_mask(self._clause_filter.passes(clauses)), self.num_items)


def _without_repeats(rows: Rows) -> Rows:
    return rows[np.sort(np.unique(rows, return_index=True)[1])]

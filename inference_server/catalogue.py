"""What the stages ask of a bundle's catalogue besides vectors: which rows have a category, and which are popular."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from inference_server.bitmap import Bitmap, bitmap_of_mask
from tandem.contract.bundle import Bundle
from tandem.contract.names import CATEGORY_SEGMENT, SEGMENT_ALL
from tandem.contract.vocabulary import Rows

_MAX_CACHED_FILTERS: Final = 64
"""Category filters kept as bitmaps; at a million items these are 8 MB."""
_ROWS_PER_CHUNK: Final = 4096


class Catalogue:
    """Category filters and popularity order of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.popularity = bundle.items.popularity
        """(items,) int64, interactions in the training data."""
        self._top_items = {segment: _without_repeats(rows) for segment, rows in bundle.top_items.items()}
        self._rows_by_category = bundle.rows_by_category
        self._rows_by_popularity: Rows = bundle.rows_by_popularity
        self._filters: dict[tuple[tuple[str, ...], tuple[str, ...]], Bitmap] = {}

    def allowed(self, include_categories: tuple[str, ...], exclude_categories: tuple[str, ...]) -> Bitmap:
        """Rows with at least one of the included categories (none given: any) and none of the excluded ones.

        The bitmap is kept for the next request and must not be written.
        """
        key = (include_categories, exclude_categories)
        bitmap = self._filters.get(key)
        if bitmap is None:
            bitmap = self._make_filter(include_categories, exclude_categories)
            if len(self._filters) >= _MAX_CACHED_FILTERS:
                self._filters.clear()
            self._filters[key] = bitmap
        return bitmap

    def popular_rows(self, include_categories: tuple[str, ...]) -> Iterator[Rows]:
        """All rows in chunks, most popular first: the bundle's list for the segment, then the whole catalogue.

        The segment is the category's where exactly one is included and the bundle has a list for it, else everyone's.
        Rows of the list come a second time with the catalogue.
        """
        segment = CATEGORY_SEGMENT + include_categories[0] if len(include_categories) == 1 else SEGMENT_ALL
        yield self._top_items.get(segment, self._top_items[SEGMENT_ALL])
        for start in range(0, len(self._rows_by_popularity), _ROWS_PER_CHUNK):
            yield self._rows_by_popularity[start : start + _ROWS_PER_CHUNK]

    def _make_filter(self, include_categories: tuple[str, ...], exclude_categories: tuple[str, ...]) -> Bitmap:
        mask = np.full(len(self.popularity), not include_categories)
        for category in include_categories:
            mask[self._rows_by_category.get(category, _NO_ROWS)] = True
        for category in exclude_categories:
            mask[self._rows_by_category.get(category, _NO_ROWS)] = False
        bitmap = bitmap_of_mask(mask)
        bitmap.flags.writeable = False
        return bitmap


def _without_repeats(rows: Rows) -> Rows:
    return rows[np.sort(np.unique(rows, return_index=True)[1])]


_NO_ROWS: Final[Rows] = np.empty(0, dtype=np.int64)

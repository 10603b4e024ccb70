"""The catalogue of a bundle and its live items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from inference_server.core.query import AttributePredicate, Clause
from inference_server.model.catalogue.bitmap import Bitmap, add_rows, rows_in, without_rows
from inference_server.model.catalogue.catalogue import Catalogue
from inference_server.model.catalogue.clause_filter import ClauseFilter
from inference_server.model.catalogue.filter_cache import FilterCache
from inference_server.model.catalogue.filtered_catalogue import FilteredCatalogue
from inference_server.model.catalogue.item_mask import ItemMask
from inference_server.model.catalogue.live_items import LiveItems
from tandem.contract.features import KeyRows, RowVectors
from tandem.contract.vocabulary import MISSING_ROW, Keys, Rows


class LiveVocabulary:
    """Rows of a bundle's items and of appended items, by key."""

    def __init__(self, bundle_vocabulary: KeyRows, live: LiveItems) -> None:
        """`live` has at least one appended item."""
        self._bundle_vocabulary = bundle_vocabulary
        order = np.argsort(live.keys)
        self._keys = live.keys[order]
        self._rows = live.num_bundle_items + order

    def rows_of_keys(self, keys: Keys) -> Rows:
        """See `features.KeyRows`."""
        rows = self._bundle_vocabulary.rows_of_keys(keys)
        if not len(rows) or rows.min() != MISSING_ROW:  # mostly the bundle holds them all
            return rows
        positions = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[positions] == keys, self._rows[positions], rows)


class LiveVectors:
    """Vectors of a bundle's items and of live items, read like one array."""

    def __init__(self, bundle_vectors: RowVectors, live: LiveItems) -> None:
        self._bundle_vectors = bundle_vectors
        self._live = live
        self.shape = (live.num_items, live.vectors.shape[1])

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[np.float32]:
        """See `features.RowVectors`."""
        positions = self._live.positions_of(rows)
        is_live = positions != MISSING_ROW
        vectors = self._bundle_vectors[np.where(is_live, 0, rows)]
        vectors[is_live] = self._live.vectors[positions[is_live]]
        return vectors


class LiveCatalogue(FilteredCatalogue):
    """The items of a bundle and those that changed since, see `Catalogue`."""

    def __init__(self, bundle_catalogue: Catalogue, live: LiveItems, filters: FilterCache) -> None:
        """`bundle_catalogue` is of the bundle that `live` changes; `filters` is this catalogue's alone."""
        super().__init__(filters)
        self._bundle_catalogue = bundle_catalogue
        self._live = live
        self._live_filter = ClauseFilter(live.table, live.table.rows_by_category())
        self.clause_filters: tuple[ClauseFilter, ...] = (*bundle_catalogue.clause_filters, self._live_filter)
        self._ids = live.table.item_ids(range(len(live.rows)))
        self._hidden = live.hidden_from_bundle
        self._searched = live.searched
        self.num_items = live.num_items
        self.vocabulary: KeyRows = bundle_catalogue.vocabulary
        if len(live.keys):
            self.vocabulary = LiveVocabulary(bundle_catalogue.vocabulary, live)
        self.vectors: RowVectors = bundle_catalogue.vectors
        if len(live.rows):
            self.vectors = LiveVectors(bundle_catalogue.vectors, live)
        self.alive: Bitmap | None = self.mask(()).bitmap if len(live.dead) else None
        self._top_rows = self.recommendable(bundle_catalogue.top_rows(bundle_catalogue.num_items))

    def item_ids(self, rows: Rows) -> list[str]:
        """See `Catalogue.item_ids`."""
        if self._are_in_bundle(rows):
            return self._bundle_catalogue.item_ids(rows)
        is_appended = rows >= self._live.num_bundle_items
        ids = self._bundle_catalogue.item_ids(np.where(is_appended, 0, rows))
        first = len(self._ids) - len(self._live.slots) - self._live.num_bundle_items
        for index in np.flatnonzero(is_appended).tolist():
            ids[index] = self._ids[first + int(rows[index])]
        return ids

    def title(self, row: int) -> str:
        """See `Catalogue.title`."""
        position = int(self._live.positions_of(np.array([row]))[0])
        return self._bundle_catalogue.title(row) if position == MISSING_ROW else self._live.table.title(position)

    def popularity_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        """See `Catalogue.popularity_of`."""
        is_appended = rows >= self._live.num_bundle_items
        counts = self._bundle_catalogue.popularity_of(np.where(is_appended, 0, rows))
        counts[is_appended] = 0
        return counts

    def categories_of(self, rows: Rows) -> list[list[str]]:
        """See `Catalogue.categories_of`."""
        positions = self._live.positions_of(rows)
        is_live = positions != MISSING_ROW
        categories = self._bundle_catalogue.categories_of(np.where(is_live, 0, rows))
        live_categories = self._live.table.categories_of(positions[is_live])
        for index, names in zip(np.flatnonzero(is_live).tolist(), live_categories, strict=True):
            categories[index] = names
        return categories

    def recommendable(self, rows: Rows) -> Rows:
        """See `Catalogue.recommendable`."""
        return rows if self.alive is None else rows[rows_in(self.alive, rows)]

    def stable_rows(self, rows: Rows) -> Rows:
        """See `Catalogue.stable_rows`: an appended item has its slot, which feature_sync gave it, for all workers."""
        if self._are_in_bundle(rows):
            return rows
        is_appended = rows >= self._live.num_bundle_items
        slots = self._live.slots[rows[is_appended] - self._live.num_bundle_items]
        stable = rows.copy()
        stable[is_appended] = self._live.num_bundle_items + slots
        return stable

    def rows_of_stable(self, stable: Rows) -> Rows:
        """See `Catalogue.rows_of_stable`."""
        slots = stable - self._live.num_bundle_items
        is_appended = slots >= 0
        if not is_appended.any():
            return stable
        rows = np.where(is_appended, MISSING_ROW, stable)
        if len(self._live.slots):
            positions = np.minimum(np.searchsorted(self._live.slots, slots), len(self._live.slots) - 1)
            is_held = is_appended & (self._live.slots[positions] == slots)
            rows[is_held] = positions[is_held] + self._live.num_bundle_items
        return rows

    def popular_rows(self, include_categories: tuple[str, ...]) -> Iterator[Rows]:
        """See `Catalogue.popular_rows`; appended items come last."""
        yield from self._bundle_catalogue.popular_rows(include_categories)
        yield np.arange(self._live.num_bundle_items, self.num_items)

    def top_rows(self, count: int) -> Rows:
        """See `Catalogue.top_rows`."""
        return self._top_rows[:count]

    def check(self, predicates: Sequence[AttributePredicate], *, field: str) -> None:
        """See `Catalogue.check`. Live items do not count: a live item with text where the bundle has numbers must not
        make callers' requests invalid."""
        self._bundle_catalogue.check(predicates, field=field)

    def _are_in_bundle(self, rows: Rows) -> bool:
        # The maximum of a few rows takes a third of the time of comparing each of them.
        return not len(rows) or bool(rows.max() < self._live.num_bundle_items)

    def _make_mask(self, clauses: tuple[Clause, ...]) -> ItemMask:
        bundle_bitmap = self._bundle_catalogue.mask(clauses).bitmap
        bitmap = np.zeros(-(-self.num_items // 8), dtype=np.uint8)
        bitmap[: len(bundle_bitmap)] = bundle_bitmap
        bitmap = without_rows(bitmap, self._hidden)
        add_rows(bitmap, self._live.rows[self._live_filter.passes(clauses) & self._searched])
        return ItemMask.from_bitmap(bitmap, self.num_items)

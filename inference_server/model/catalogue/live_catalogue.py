"""A bundle's catalogue with the live items around it, behind the methods of `catalogue.Catalogue`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from inference_server.core.query import AttributePredicate, Clause
from inference_server.model.catalogue.bitmap import add_rows, rows_in, without_rows
from inference_server.model.catalogue.catalogue import Catalogue, ItemMask
from inference_server.model.catalogue.clause_filter import ClauseFilter
from inference_server.model.catalogue.live_items import LiveItems
from tandem.contract.features import KeyRows, RowVectors
from tandem.contract.vocabulary import MISSING_ROW, Keys, Rows


class LiveVocabulary:
    """Keys of a bundle's items and of further ones."""

    def __init__(self, of_bundle: KeyRows, live: LiveItems) -> None:
        self._of_bundle = of_bundle
        order = np.argsort(live.keys)
        self._keys = live.keys[order]
        self._rows = live.num_bundle_items + order

    def rows_of_keys(self, keys: Keys) -> Rows:
        """See `features.KeyRows`."""
        rows = self._of_bundle.rows_of_keys(keys)
        if not len(rows) or rows.min() != MISSING_ROW:  # mostly the bundle holds them all
            return rows
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._rows[places], rows)


class LiveVectors:
    """Vectors of a bundle's items and of live ones, read like one array."""

    def __init__(self, of_bundle: RowVectors, live: LiveItems) -> None:
        self._of_bundle = of_bundle
        self._live = live
        self.shape = (live.num_items, live.vectors.shape[1])

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[np.float32]:
        """See `features.RowVectors`."""
        places = self._live.places_of(rows)
        is_live = places != MISSING_ROW
        vectors = self._of_bundle[np.where(is_live, 0, rows)]
        vectors[is_live] = self._live.vectors[places[is_live]]
        return vectors


class LiveCatalogue(Catalogue):
    """The items of a bundle and those that changed since."""

    def __init__(self, of_bundle: Catalogue, live: LiveItems) -> None:
        """Not `Catalogue.__init__`, which reads a bundle: what does not change is asked of the bundle's catalogue."""
        self._of_bundle = of_bundle
        self._live = live
        self.num_items = live.num_items
        self.vocabulary = LiveVocabulary(of_bundle.vocabulary, live) if len(live.keys) else of_bundle.vocabulary
        self.vectors = LiveVectors(of_bundle.vectors, live) if len(live.rows) else of_bundle.vectors
        # Lists hold keys, which mean the same whatever changes.
        self._lists = of_bundle._lists
        self._forget_masks()
        self._live_filter = ClauseFilter(live.table, live.table.rows_by_category())
        self._ids = live.table.item_ids(range(len(live.rows)))
        self._hidden = live.hidden_from_bundle
        self._searched = live.searched
        self.alive = self.mask(()).bitmap if len(live.dead) else None
        self._top_rows = self.recommendable(of_bundle.top_rows(of_bundle.num_items))

    def item_ids(self, rows: Rows) -> list[str]:
        """See `Catalogue.item_ids`."""
        if self._are_of_bundle(rows):
            return self._of_bundle.item_ids(rows)
        further = rows >= self._live.num_bundle_items
        ids = self._of_bundle.item_ids(np.where(further, 0, rows))
        first = len(self._ids) - len(self._live.slots) - self._live.num_bundle_items
        for place in np.flatnonzero(further).tolist():
            ids[place] = self._ids[first + int(rows[place])]
        return ids

    def title(self, row: int) -> str:
        """See `Catalogue.title`."""
        place = int(self._live.places_of(np.array([row]))[0])
        return self._of_bundle.title(row) if place == MISSING_ROW else self._live.table.title(place)

    def popularity_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        """See `Catalogue.popularity_of`; 0 for items that the bundle does not hold."""
        further = rows >= self._live.num_bundle_items
        counts = self._of_bundle.popularity_of(np.where(further, 0, rows))
        counts[further] = 0
        return counts

    def categories_of(self, rows: Rows) -> list[list[str]]:
        """See `Catalogue.categories_of`."""
        places = self._live.places_of(rows)
        is_live = places != MISSING_ROW
        categories = self._of_bundle.categories_of(np.where(is_live, 0, rows))
        for place, names in zip(
            np.flatnonzero(is_live).tolist(), self._live.table.categories_of(places[is_live]), strict=True
        ):
            categories[place] = names
        return categories

    def recommendable(self, rows: Rows) -> Rows:
        """See `Catalogue.recommendable`."""
        return rows if self.alive is None else rows[rows_in(self.alive, rows)]

    def lasting_rows(self, rows: Rows) -> Rows:
        """See `Catalogue.lasting_rows`: a further item is known by its slot, which every worker gives the same row."""
        if self._are_of_bundle(rows):
            return rows
        further = rows >= self._live.num_bundle_items
        lasting = rows.copy()
        lasting[further] = self._live.slots[rows[further] - self._live.num_bundle_items] + self._live.num_bundle_items
        return lasting

    def rows_of_lasting(self, lasting: Rows) -> Rows:
        """See `Catalogue.rows_of_lasting`."""
        slots = lasting - self._live.num_bundle_items
        further = slots >= 0
        if not further.any():
            return lasting
        rows = np.where(further, MISSING_ROW, lasting)
        if len(self._live.slots):
            places = np.minimum(np.searchsorted(self._live.slots, slots), len(self._live.slots) - 1)
            held = further & (self._live.slots[places] == slots)
            rows[held] = places[held] + self._live.num_bundle_items
        return rows

    def popular_rows(self, include_categories: tuple[str, ...]) -> Iterator[Rows]:
        """See `Catalogue.popular_rows`; items that the bundle does not hold come last."""
        yield from self._of_bundle.popular_rows(include_categories)
        yield np.arange(self._live.num_bundle_items, self.num_items)

    def top_rows(self, count: int) -> Rows:
        """See `Catalogue.top_rows`."""
        return self._top_rows[:count]

    def check(self, predicates: Sequence[AttributePredicate], *, field: str) -> None:
        """See `ClauseFilter.check`. Live items do not count: one of them with a text where the others have numbers must
        not turn callers' requests into mistakes."""
        self._of_bundle.check(predicates, field=field)

    def _are_of_bundle(self, rows: Rows) -> bool:
        # The largest of a few rows is found in a third of the time that it takes to compare each.
        return not len(rows) or bool(rows.max() < self._live.num_bundle_items)

    def _make_mask(self, clauses: tuple[Clause, ...]) -> ItemMask:
        of_bundle = self._of_bundle.mask(clauses)
        bitmap = np.zeros(-(-self.num_items // 8), dtype=np.uint8)
        bitmap[: len(of_bundle.bitmap)] = of_bundle.bitmap
        bitmap = without_rows(bitmap, self._hidden)
        add_rows(bitmap, self._live.rows[self._live_filter.passes(clauses) & self._searched])
        return ItemMask.of_bitmap(bitmap, self.num_items)

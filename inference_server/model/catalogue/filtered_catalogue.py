"""The filters of a catalogue: made once, then kept in its cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from inference_server.core.query import Clause
from inference_server.core.request_warnings import RequestWarning
from inference_server.model.catalogue.bitmap import without_rows
from inference_server.model.catalogue.clause_filter import ClauseFilter
from inference_server.model.catalogue.filter_cache import FilterCache
from inference_server.model.catalogue.filter_warnings import filter_warnings
from inference_server.model.catalogue.item_mask import ItemMask
from tandem.contract.features import KeyRows
from tandem.contract.vocabulary import MISSING_ROW, Keys, Rows


class FilteredCatalogue(ABC):
    """The part of a `Catalogue` that keeps filters. Subclasses set the attributes and make the masks."""

    num_items: int
    vocabulary: KeyRows
    clause_filters: Sequence[ClauseFilter]

    def __init__(self, filters: FilterCache) -> None:
        """`filters` is this catalogue's alone."""
        self._filters = filters

    def known_rows(self, keys: Keys) -> Rows:
        """See `Catalogue.known_rows`."""
        rows = self.vocabulary.rows_of_keys(keys)
        known: Rows = rows[rows != MISSING_ROW]
        return known

    def mask(self, clauses: tuple[Clause, ...]) -> ItemMask:
        """See `Catalogue.mask`."""
        mask = self._filters.masks.get(clauses)
        return self._filters.masks.add(clauses, self._make_mask(clauses)) if mask is None else mask

    def mask_without(self, clauses: tuple[Clause, ...], digest: bytes) -> ItemMask:
        """See `Catalogue.mask_without`."""
        mask = self._filters.masks_without_list.get((clauses, digest))
        if mask is None:
            bitmap = without_rows(self.mask(clauses).bitmap, self.known_rows(self._filters.lists[digest]))
            mask = ItemMask.from_bitmap(bitmap, self.num_items)
            self._filters.masks_without_list.add((clauses, digest), mask)
        return mask

    def warnings(self, clauses: tuple[Clause, ...], *, field: str) -> tuple[RequestWarning, ...]:
        """See `Catalogue.warnings`."""
        warnings = self._filters.warnings.get(clauses)
        if warnings is None:
            num_items = self.mask(clauses).num_items
            warnings = filter_warnings(
                clauses[0], self.clause_filters, field=field, num_items=num_items, has_rules=len(clauses) > 1
            )
            self._filters.warnings.add(clauses, warnings)
        return warnings

    def knows_list(self, digest: bytes) -> bool:
        """See `Catalogue.knows_list`."""
        return digest in self._filters.lists

    def remember_list(self, digest: bytes, keys: Keys) -> None:
        """See `Catalogue.remember_list`."""
        self._filters.lists.add(digest, keys)

    @abstractmethod
    def _make_mask(self, clauses: tuple[Clause, ...]) -> ItemMask: ...

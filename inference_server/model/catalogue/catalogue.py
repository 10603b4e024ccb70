"""The interface of a catalogue: ids, vectors, titles and popularity by row, and the rows that pass a filter.

`BundleCatalogue` holds the items of a bundle. `LiveCatalogue` adds the items that changed since, so that no stage has
to know about them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from inference_server.core.query import AttributePredicate, Clause
from inference_server.core.request_warnings import RequestWarning
from inference_server.model.catalogue.bitmap import Bitmap
from inference_server.model.catalogue.clause_filter import ClauseFilter
from inference_server.model.catalogue.item_mask import ItemMask
from tandem.contract.features import KeyRows, RowVectors
from tandem.contract.vocabulary import Keys, Rows


class Catalogue(Protocol):
    """The items that a model recommends from, as rows 0 to `num_items` - 1."""

    @property
    def num_items(self) -> int:
        """Number of rows, including the rows of items that may not be recommended."""
        ...

    @property
    def vocabulary(self) -> KeyRows:
        """Rows by key."""
        ...

    @property
    def vectors(self) -> RowVectors:
        """(num_items, dim) float32: the item tower's vectors."""
        ...

    @property
    def clause_filters(self) -> Sequence[ClauseFilter]:
        """The filters of all parts of the catalogue."""
        ...

    @property
    def alive(self) -> Bitmap | None:
        """The rows that may be recommended at all; None: all."""
        ...

    def known_rows(self, keys: Keys) -> Rows:
        """Rows of the keys that the catalogue holds: (n,) uint64 -> (m,) int64, m <= n."""
        ...

    def item_ids(self, rows: Rows) -> list[str]:
        """External ids of rows, (n,) int64."""
        ...

    def title(self, row: int) -> str:
        """Title of a row; empty where the catalogue has none."""
        ...

    def popularity_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Interactions in the training data: (n,) int64 -> (n,) int64. 0 for items that the bundle lacks."""
        ...

    def categories_of(self, rows: Rows) -> list[list[str]]:
        """Categories of rows, (n,) int64."""
        ...

    def recommendable(self, rows: Rows) -> Rows:
        """Those rows that may be recommended at all: (n,) int64 -> (m,) int64, m <= n, in the same order."""
        ...

    def stable_rows(self, rows: Rows) -> Rows:
        """(n,) int64 -> (n,) int64: numbers that name the same items in every worker, as long as the bundle is served.

        Page tokens and cached lists hold them, because a change of the catalogue may give an item another row.
        """
        ...

    def rows_of_stable(self, stable: Rows) -> Rows:
        """The inverse of `stable_rows`: (n,) int64 -> (n,) int64, MISSING_ROW for an item that is not here."""
        ...

    def mask(self, clauses: tuple[Clause, ...]) -> ItemMask:
        """Rows that meet every clause and may be recommended."""
        ...

    def mask_without(self, clauses: tuple[Clause, ...], digest: bytes) -> ItemMask:
        """Like `mask`, less the items of the long exclude list with this digest. Raises KeyError if it is unknown."""
        ...

    def warnings(self, clauses: tuple[Clause, ...], *, field: str) -> tuple[RequestWarning, ...]:
        """What is most likely wrong with the first clause, a request's filter named `field`; the others are rules.

        `field` must be the same in all calls."""
        ...

    def knows_list(self, digest: bytes) -> bool:
        """Whether the long exclude list with this digest is still remembered."""
        ...

    def remember_list(self, digest: bytes, keys: Keys) -> None:
        """Keeps the keys of a long exclude list, (n,) uint64, for `mask_without`."""
        ...

    def popular_rows(self, include_categories: tuple[str, ...]) -> Iterator[Rows]:
        """All rows in chunks, (n,) int64 each, most popular first: a list of the bundle, then the whole catalogue.

        Where exactly one category is included and the bundle has a list for it, the list is the category's, else it is
        the list for everyone. Its rows are repeated in the whole catalogue.
        """
        ...

    def top_rows(self, count: int) -> Rows:
        """The first rows of the list of popular items for everyone: (n,) int64, n <= count. All may be recommended."""
        ...

    def check(self, predicates: Sequence[AttributePredicate], *, field: str) -> None:
        """Raises InvalidRequest, which names the entry of `field`, for a bound on an attribute of the bundle that is
        not numeric."""
        ...

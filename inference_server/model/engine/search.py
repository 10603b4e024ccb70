"""Search for the nearest allowed items of many users at once: the interface of every index, and the size that
decides between them.

Every index applies the filter inside the search, so that it finds as many items as were asked for whenever that many
are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.item_mask import ItemMask
from tandem.contract.vocabulary import MISSING_ROW, Rows

EXACT_MAX_ITEMS: Final = 12_000
"""Size of the largest catalogue that is scored in full. At 3,700 items and 64 dimensions, one matrix product for a
batch and a partial sort take 16 microseconds a user; an IVF index that also has to skip what the user has seen takes 30
to 130. The two are equally fast at about this size (docs/decisions/0015-small-catalogues-are-scored-in-full.md)."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The items that one user may be shown."""

    mask: ItemMask | None
    """Rows that pass the filters; None: all rows."""
    excluded: Rows
    """(n,) int64: rows to leave out although they pass the filters, in any order; repeats are allowed."""


@dataclass(frozen=True, slots=True)
class Found:
    """The nearest allowed items of some users, best first; items of equal score are in no particular order."""

    rows: npt.NDArray[np.int64]
    """(users, k) int64, MISSING_ROW behind the last item found."""
    scores: npt.NDArray[np.float32]
    """(users, k) float32 inner products, -inf behind the last item found."""
    remaining_scores: npt.NDArray[np.float32] | None = None
    """(users, items) float32: the scores of the allowed items that were not found, -inf for all other items; None where
    the index did not score all items."""


class ItemSearch(Protocol):
    """An index to serve from. Safe to call from several threads."""

    def nearest(
        self, vectors: npt.NDArray[np.float32], num_items: int, allowed: list[Allowed], *, exhaustive: bool = False
    ) -> Found:
        """Finds the `num_items` allowed items with the highest inner products for each of (users, dim) float32 vectors.

        `exhaustive` scores every item, however long that takes.
        """
        ...


def nothing_found(num_users: int, num_items: int) -> Found:
    """No items yet, for a search to fill in."""
    return Found(
        np.full((num_users, num_items), MISSING_ROW, dtype=np.int64),
        np.full((num_users, num_items), -np.inf, dtype=np.float32),
    )

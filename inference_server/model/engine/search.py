"""Nearest allowed items of many users at once: what every index offers, and the choice between them.

Both indexes apply the filter inside the search, so that as many items come back as were asked for whenever so many are
allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.catalogue import ItemMask
from tandem.contract.vocabulary import MISSING_ROW, Rows

EXACT_MAX_ITEMS: Final = 12_000
"""Largest catalogue that is scored in full. One matrix product for a batch and a partial sort take 16 microseconds a
user at 3,700 items and 64 dimensions, an IVF index that also has to skip what the user has seen takes 30 to 130; the
two meet at about this size (docs/decisions/0015-small-catalogues-are-scored-in-full.md)."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one user may be shown."""

    mask: ItemMask | None
    """Rows that pass the filters; None: all do."""
    excluded: Rows
    """(n,) int64: rows to leave out all the same, in any order, repeats allowed."""


@dataclass(frozen=True, slots=True)
class Found:
    """The nearest allowed items of some users; best first, but for equal scores."""

    rows: npt.NDArray[np.int64]
    """(users, most) int64, MISSING_ROW behind the last one found."""
    scores: npt.NDArray[np.float32]
    """(users, most) float32 inner products, -inf behind the last one."""
    others: npt.NDArray[np.float32] | None = None
    """(users, items) float32: the scores of all items, -inf for those that are not allowed and those that were found;
    None where the index does not know them."""


class ItemSearch(Protocol):
    """An index to serve from. Safe to call from several threads."""

    def nearest(
        self, vectors: npt.NDArray[np.float32], num_items: int, allowed: list[Allowed], *, exhaustive: bool = False
    ) -> Found:
        """The `num_items` allowed items with the highest inner product, for each of (users, dim) float32 vectors.

        `exhaustive` looks at every item, whatever that takes.
        """
        ...


def nothing_found(num_users: int, num_items: int) -> Found:
    """A result to be filled in."""
    return Found(
        np.full((num_users, num_items), MISSING_ROW, dtype=np.int64),
        np.full((num_users, num_items), -np.inf, dtype=np.float32),
    )

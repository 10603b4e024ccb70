"""What a bundle's catalogue has become since the bundle was made: items beside it, and rows that are dead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract.items import Item, ItemTable
from tandem.contract.vocabulary import MISSING_ROW, NO_KEYS, NO_ROWS, Keys, Rows


@dataclass(frozen=True, kw_only=True)
class LiveItems:
    """Items that changed since a bundle was made. Immutable.

    An item that the bundle holds keeps its row, and what is here counts instead of what the bundle says. Further items
    have the rows behind the bundle's, in the order of their slots. So rows ascend in the order of the items here, and
    those of the further items are the last ones.
    """

    num_bundle_items: int
    rows: Rows
    """(n,) int64, ascending."""
    vectors: npt.NDArray[np.float32]
    """(n, dim) float32."""
    table: ItemTable
    """n items; the popularity of all is 0."""
    slots: Rows
    """(m,) int64, ascending: slots (`streams.AppliedItemChange.slot`) of the m <= n items that the bundle lacks."""
    keys: Keys
    """(m,) uint64: their keys."""
    dead: Rows
    """(d,) int64, ascending: rows that are read as history and never recommended. Some may be in `rows`."""
    num_waiting: int = 0
    """Items that are not recommended before their vector is there, or not as they are now."""

    @property
    def num_items(self) -> int:
        """Rows of the bundle and of further items."""
        return self.num_bundle_items + len(self.slots)

    @property
    def num_recommendable(self) -> int:
        """Items here that may be recommended."""
        return int(self.searched.sum())

    @property
    def changes_nothing(self) -> bool:
        """Whether the bundle's catalogue is as it was."""
        return not len(self.rows) and not len(self.dead)

    @property
    def searched(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: the items that may be recommended."""
        return ~np.isin(self.rows, self.dead, assume_unique=True)

    @property
    def hidden_from_bundle(self) -> Rows:
        """(h,) int64, ascending: rows of the bundle that a search of the bundle must not find."""
        hidden = np.union1d(self.rows, self.dead)
        return hidden[hidden < self.num_bundle_items]

    def places_of(self, rows: Rows) -> Rows:
        """Places of rows in `rows`, in any shape, int64: MISSING_ROW for those that are not here."""
        if not len(self.rows):
            return np.full(np.shape(rows), MISSING_ROW, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[places] == rows, places, MISSING_ROW)


def no_live_items(num_bundle_items: int, dim: int, *, dead: Rows) -> LiveItems:
    """Nothing but some rows of the bundle that are dead, (d,) int64, ascending."""
    return LiveItems(
        num_bundle_items=num_bundle_items,
        rows=NO_ROWS,
        vectors=np.empty((0, dim), dtype=np.float32),
        table=ItemTable.from_items(list[Item]()),
        slots=NO_ROWS,
        keys=NO_KEYS,
        dead=dead,
    )

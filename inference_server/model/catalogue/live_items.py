"""How a bundle's catalogue has changed since the bundle was made: live items, and dead rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract.items import Item, ItemTable
from tandem.contract.vocabulary import MISSING_ROW, NO_KEYS, NO_ROWS, Keys, Rows


@dataclass(frozen=True, kw_only=True)
class LiveItems:
    """Items that changed since a bundle was made. Immutable.

    An item that the bundle holds keeps its row, and its data here replace the bundle's. Items that the bundle lacks are
    appended: they have the rows behind the bundle's, in the order of their slots. So rows ascend in the order of the
    items here, and the appended items are the last m of the n.
    """

    num_bundle_items: int
    rows: Rows
    """(n,) int64, ascending: the items' rows in the live catalogue."""
    vectors: npt.NDArray[np.float32]
    """(n, dim) float32."""
    table: ItemTable
    """n items; the popularity of all is 0."""
    slots: Rows
    """(m,) int64, ascending: slots (`streams.AppliedItemChange.slot`) of the m <= n appended items."""
    keys: Keys
    """(m,) uint64: keys of the appended items."""
    dead: Rows
    """(d,) int64, ascending: rows whose items are read as history but never recommended. Some may be in `rows`."""
    num_waiting: int = 0
    """Changed items without an up-to-date vector: until it comes, they are recommended with the data of the bundle, or
    not at all."""

    @property
    def num_items(self) -> int:
        """Number of rows: the bundle's and the appended ones."""
        return self.num_bundle_items + len(self.slots)

    @property
    def num_recommendable(self) -> int:
        """Number of live items that may be recommended."""
        return int(self.searched.sum())

    @property
    def changes_nothing(self) -> bool:
        """Whether the bundle's catalogue is still as it was made."""
        return not len(self.rows) and not len(self.dead)

    @property
    def searched(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: which live items may be recommended."""
        return ~np.isin(self.rows, self.dead, assume_unique=True)

    @property
    def hidden_from_bundle(self) -> Rows:
        """(h,) int64, ascending: rows of the bundle that a search of the bundle must not find."""
        hidden = np.union1d(self.rows, self.dead)
        return hidden[hidden < self.num_bundle_items]

    def positions_of(self, rows: Rows) -> Rows:
        """Positions of `rows` in `self.rows`, (...) int64 -> (...) int64: MISSING_ROW for rows that are not live."""
        if not len(self.rows):
            return np.full(np.shape(rows), MISSING_ROW, dtype=np.int64)
        positions = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[positions] == rows, positions, MISSING_ROW)


def no_live_items(num_bundle_items: int, dim: int, *, dead: Rows) -> LiveItems:
    """No live items; `dead`, (d,) int64, ascending, are the bundle's own dead rows."""
    return LiveItems(
        num_bundle_items=num_bundle_items,
        rows=NO_ROWS,
        vectors=np.empty((0, dim), dtype=np.float32),
        table=ItemTable.from_items(list[Item]()),
        slots=NO_ROWS,
        keys=NO_KEYS,
        dead=dead,
    )

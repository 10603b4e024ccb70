"""The rows that pass a filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from inference_server.model.catalogue.bitmap import Bitmap
from tandem.contract.vocabulary import Rows

MAX_LISTED_ROWS: Final = 4_000
"""If at most this many items pass a filter, its mask lists their rows, and a search scores these items alone: they are
spread over too many lists of an index to be found through it."""


@dataclass(frozen=True, slots=True)
class ItemMask:
    """A filter as rows. Requests share it, so its arrays are read only."""

    bitmap: Bitmap
    num_items: int
    """Number of rows that pass."""
    rows: Rows | None
    """(num_items,) int64, ascending; None for more than MAX_LISTED_ROWS rows."""

    @classmethod
    def from_bitmap(cls, bitmap: Bitmap, num_items: int) -> ItemMask:
        """The mask of a bitmap over `num_items` items. Makes the bitmap read only."""
        count = int(np.bitwise_count(bitmap).sum())
        rows = None
        if count <= MAX_LISTED_ROWS:
            rows = np.flatnonzero(np.unpackbits(bitmap, count=num_items, bitorder="little"))
        bitmap.flags.writeable = False
        return cls(bitmap, count, rows)

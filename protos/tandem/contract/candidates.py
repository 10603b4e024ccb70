"""Which candidates a request gets unless a policy says otherwise: in serving, and in offline evaluation of a ranker."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import MISSING_ROW, Rows

TWO_TOWER_CANDIDATES: Final = 100
"""Items nearest to the user's vector."""
CONTENT_NEIGHBOUR_CANDIDATES: Final = 30
"""Items whose content is near to that of the items chosen last."""
ITEM_ITEM_CANDIDATES: Final = 50
"""Items to whose scores the items chosen last add most."""
CONTENT_NEIGHBOURS_OF: Final = 3
"""Newest items whose content neighbours are proposed."""
ITEM_ITEM_NEIGHBOURS_OF: Final = 5
"""Newest items whose neighbours by the item-item source are proposed."""


def neighbour_rows(neighbours: npt.NDArray[np.int32], history_rows: Rows, most: int, *, num_events: int) -> Rows:
    """Neighbours of each user's newest `num_events` items, the first one of every item first.

    `neighbours` is (items, n) int32 as a bundle holds them, `history_rows` (users, events) int64, oldest first. Returns
    (users, at least `most` where there are so many) int64, MISSING_ROW where there is none; rows may repeat. A user who
    wants fewer takes the first ones, whatever `most` is.
    """
    recent = history_rows[:, : -num_events - 1 : -1]  # newest first
    each = -(-most // recent.shape[1])
    rows = neighbours[np.maximum(recent, 0), :each].astype(np.int64)  # (users, recent, each)
    rows[recent == MISSING_ROW] = MISSING_ROW
    return rows.transpose(0, 2, 1).reshape(len(history_rows), -1)

"""Cold, warm and heavy users; head and tail items.

The limits are counts and shares with the same meaning on every data set; none is fitted to a data set.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

COLD_USER_MAX_EVENTS: Final = 5
"""Most known events of a cold user: about what a new customer has after one or two visits."""
HEAVY_USER_MIN_EVENTS: Final = 50
"""Fewest known events of a heavy user: as many as the user tower reads by default."""
HEAD_SHARE: Final = 0.2
"""The head is this share of the catalogue, the most popular items. All other items are the tail, and so is every item
without interactions."""

USER_SEGMENTS: Final = ("cold users", "warm users", "heavy users")
HEAD_ITEMS: Final = "head items"
TAIL_ITEMS: Final = "tail items"


def user_segments(num_known_events: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Indices into USER_SEGMENTS, (users,) int64, from the numbers of known events, (users,) int64."""
    return np.digitize(num_known_events, [COLD_USER_MAX_EVENTS + 1, HEAVY_USER_MIN_EVENTS])


def head_items(popularity: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each item is a head item, (items,) bool, from known interactions, (items,) int64; ties by row."""
    most_popular = np.argsort(-popularity, kind="stable")[: int(np.ceil(HEAD_SHARE * len(popularity)))]
    head = np.zeros(len(popularity), dtype=bool)
    head[most_popular] = True
    return head & (popularity > 0)

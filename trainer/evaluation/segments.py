"""Which users are cold, warm or heavy, and which items are head or tail.

The limits are counts and shares that mean the same on every data set; none is fitted to one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

COLD_USER_MAX_EVENTS: Final = 5
"""A cold user has at most so many known events, or none: what a new customer has after a visit or two."""
HEAVY_USER_MIN_EVENTS: Final = 50
"""A heavy user has at least so many known events: by default as many as the user tower reads."""
HEAD_SHARE: Final = 0.2
"""Share of the catalogue, by popularity, that is the head; the rest is the tail, as is every item nobody chose."""

USER_SEGMENTS: Final = ("cold users", "warm users", "heavy users")
HEAD_ITEMS: Final = "head items"
TAIL_ITEMS: Final = "tail items"


def user_segments(num_known_events: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(users,) int64 places in USER_SEGMENTS, from (users,) int64 known events."""
    return np.digitize(num_known_events, [COLD_USER_MAX_EVENTS + 1, HEAVY_USER_MIN_EVENTS])


def head_items(popularity: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(items,) bool from (items,) int64 known interactions; of equally popular items the first rows are taken."""
    most_popular = np.argsort(-popularity, kind="stable")[: int(np.ceil(HEAD_SHARE * len(popularity)))]
    head = np.zeros(len(popularity), dtype=bool)
    head[most_popular] = True
    return head & (popularity > 0)

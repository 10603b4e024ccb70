"""The lists that users were last answered with: what answers them when there is no time, or no store, for a new one.

In the worker's memory, not in the online store: it has to be there when the store is not.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_USERS: Final = 10_000
"""Users whose list is kept, the latest ones; with 100 items each these are 14 MB."""
MAX_ITEMS: Final = 100


@dataclass(frozen=True, slots=True)
class RecentList:
    """One user's candidates in the order in which they were chosen from."""

    model_version: str
    rows: npt.NDArray[np.int64]
    """(n,) int64, best first, as `Catalogue.stable_rows` numbers them: the catalogue may change under a list."""
    scores: npt.NDArray[np.float32]
    """(n,) float32."""


class RecentLists:
    """Lists by user, those asked for longest ago dropped first."""

    def __init__(self) -> None:
        self._lists: OrderedDict[str, RecentList] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lists)

    def put(
        self, user_id: str, model_version: str, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> None:
        """Keeps a user's list, best first: (n,) int64 and (n,) float32, n <= MAX_ITEMS."""
        self._lists[user_id] = RecentList(model_version, rows, scores.copy())
        self._lists.move_to_end(user_id)
        if len(self._lists) > MAX_USERS:
            self._lists.popitem(last=False)

    def get(self, user_id: str, model_version: str) -> RecentList | None:
        """A user's list, if it was made by this model: rows of another one are other items."""
        found = self._lists.get(user_id)
        return found if found is not None and found.model_version == model_version else None

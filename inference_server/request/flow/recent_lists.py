"""The last list of each user, to answer from when there is no time, or no store, for a new list.

The lists are in the worker's memory, not in the online store: they are needed when the store is down.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from inference_server.core.query import NO_FILTER
from inference_server.request.flow.types import Answered

MAX_LISTS: Final = 10_000
"""Lists that are kept, those of the users who were answered last; with 100 items each, they take 14 MB."""
MAX_ITEMS: Final = 100


@dataclass(frozen=True, slots=True)
class RecentList:
    """One user's best candidates, in the order that the page was chosen from."""

    rows: npt.NDArray[np.int64]
    """(n,) int64, best first, as `Catalogue.stable_rows` numbers them: the catalogue may change under a list."""
    scores: npt.NDArray[np.float32]
    """(n,) float32."""


class RecentLists:
    """Lists by user and model: rows of another model name other items. The oldest list is dropped first."""

    def __init__(self) -> None:
        self._lists: OrderedDict[tuple[str, str], RecentList] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lists)

    def remember(self, answered: Answered) -> None:
        """Keeps this user's complete list, to answer from when a later request has no time.

        Ignores a list that fits this request alone: it comes from memory, is degraded or filtered, belongs to a later
        page or a scenario, or may contain items that the user has seen.
        """
        chosen = answered.chosen
        admitted = chosen.user.admitted
        query = admitted.query
        if (
            not query.user_id
            or answered.ranked.is_ordered
            or chosen.user.degraded_reasons
            or query.filter is not NO_FILTER
            or query.page_token
            or query.scenario
            or any(assignment.scenario for assignment in admitted.assignments)
            or not query.exclude_seen
        ):
            return
        rows = admitted.model.catalogue.stable_rows(chosen.pool_rows[:MAX_ITEMS])
        self.put(query.user_id, admitted.model.version, rows, chosen.pool_scores[:MAX_ITEMS])

    def put(
        self, user_id: str, model_version: str, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> None:
        """Keeps a user's list, best first: (n,) int64 and (n,) float32, n <= MAX_ITEMS."""
        key = (user_id, model_version)
        self._lists[key] = RecentList(rows, scores.copy())
        self._lists.move_to_end(key)
        if len(self._lists) > MAX_LISTS:
            self._lists.popitem(last=False)

    def get(self, user_id: str, model_version: str) -> RecentList | None:
        """A user's list; None where this model made none."""
        return self._lists.get((user_id, model_version))

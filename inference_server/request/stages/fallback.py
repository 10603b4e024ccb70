"""Fallback for users without a vector, which retrieval needs, or without time for it: the user's last list, from
memory, filled up with popular items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from inference_server.core.degradation import Source
from inference_server.model.catalogue.bitmap import rows_in, without_rows
from inference_server.model.engine.search import Allowed
from inference_server.request.flow.recent_lists import RecentLists
from inference_server.request.flow.stage_clock import stage
from inference_server.request.flow.types import Columns, Ranked, User
from tandem.contract import names
from tandem.contract.vocabulary import MISSING_ROW, NO_ROWS

_CAPPED_OVERSAMPLING: Final = 5
"""Factor on the number of items to list, for a policy with category caps, which need more items to choose from."""


@stage("fallback")
def fallback(users: Sequence[User], allowed: Sequence[Allowed], lists: RecentLists) -> list[Ranked]:
    """One list per user; at least `num_items`, if that many pass the filter."""
    return [_list_for(user, user_allowed, lists) for user, user_allowed in zip(users, allowed, strict=True)]


def _list_for(user: User, allowed: Allowed, lists: RecentLists) -> Ranked:
    admitted = user.admitted
    model = admitted.model
    catalogue = model.catalogue
    mask = catalogue.mask(()) if allowed.mask is None else allowed.mask
    bitmap = without_rows(mask.bitmap, allowed.excluded)
    capped = admitted.policy.max_per_category or admitted.policy.category_caps
    wanted = admitted.num_items * (_CAPPED_OVERSAMPLING if capped else 1)
    rows = NO_ROWS
    scores = np.empty(0, dtype=np.float32)
    columns = []
    # The cached list is for degraded requests only: a request without a degraded reason is from an unknown user.
    cached = lists.get(admitted.query.user_id, model.version) if user.degraded_reasons else None
    if cached is not None:
        known = catalogue.rows_of_stable(cached.rows)
        passes = (known != MISSING_ROW) & rows_in(bitmap, known)
        rows, scores = known[passes][:wanted], cached.scores[passes][:wanted]
        bitmap = without_rows(bitmap, rows)
        columns.append(Columns(names.SOURCE_CACHED, 0, len(rows)))
    source = Source.CACHED if len(rows) else Source.POPULAR
    num_cached = len(rows)
    for popular in catalogue.popular_rows(admitted.query.filter.include_categories):
        if len(rows) >= wanted:
            break
        new = popular[rows_in(bitmap, popular)][: wanted - len(rows)]
        rows = np.concatenate([rows, new])
        # The bundle's list is repeated in the catalogue that follows it: no item may be listed twice.
        bitmap = without_rows(bitmap, new)
    if len(rows) > num_cached:
        columns.append(Columns(names.SOURCE_POPULAR, num_cached, len(rows)))
        scores = np.concatenate([scores, catalogue.popularity_of(rows[num_cached:]).astype(np.float32)])
    return Ranked(
        model=model,
        users=[user],
        source=source,
        rows=rows.reshape(1, -1),
        scores=scores.reshape(1, -1),
        columns=columns,
        is_ordered=True,
    )

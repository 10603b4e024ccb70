"""The two towers' source: the items whose vectors are nearest to the user's, found by a filtered search.

It is not in `registry.SOURCES`: it runs for every user with a vector, and its result also has the collaborative scores
of the other sources' candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from inference_server.model.engine.search import Allowed, Found
from inference_server.request.flow.engine_calls import EngineCalls
from inference_server.request.flow.ladder import RETRIEVE
from inference_server.request.flow.types import Encoded
from tandem.contract import names
from tandem.contract.candidates import TWO_TOWER_CANDIDATES
from tandem.contract.vocabulary import MISSING_ROW

NAME: Final = names.SOURCE_TWO_TOWER
NUM_CANDIDATES: Final = TWO_TOWER_CANDIDATES
"""Number of candidates, unless a policy sets it."""


async def search_two_tower(encoded: Encoded, allowed: Sequence[Allowed], engines: EngineCalls) -> Found:
    """Finds allowed items for each user: as many as the policy takes, and at least `num_items`."""
    wanted = [
        max(user.admitted.num_items, user.admitted.policy.sources.get(NAME, NUM_CANDIDATES)) for user in encoded.users
    ]
    max_wanted = max(wanted)
    found, seconds = await engines.call(
        RETRIEVE, encoded.model.search.nearest, encoded.vectors, max_wanted, list(allowed)
    )
    engines.ladder.observe(RETRIEVE, seconds)
    if min(wanted) < max_wanted:
        _trim(found, wanted)
    return found


def _trim(found: Found, wanted: Sequence[int]) -> None:
    """Drops items found only because another user of the batch wants more, so that no answer depends on its batch."""
    for user, num_items in enumerate(wanted):
        rows, scores = found.rows[user, num_items:], found.scores[user, num_items:]
        if found.remaining_scores is not None:
            is_item = rows != MISSING_ROW
            found.remaining_scores[user, rows[is_item]] = scores[is_item]
        rows[:] = MISSING_ROW
        scores[:] = -np.inf

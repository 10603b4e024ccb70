"""The two towers' source: the items whose vectors are nearest to the user's, found by a filtered search.

It is not one of `registry.SOURCES`: every user with a vector is searched for, and its result also knows the
collaborative scores that the candidates of the other sources need.
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
"""Candidates that a policy takes when it does not say."""


async def search_two_tower(encoded: Encoded, allowed: Sequence[Allowed], engines: EngineCalls) -> Found:
    """For each user as many allowed items as the policy takes, and at least as many as the request asks for."""
    wanted = [
        max(user.admitted.num_items, user.admitted.policy.sources.get(NAME, NUM_CANDIDATES)) for user in encoded.users
    ]
    most = max(wanted)
    found, seconds = await engines.call(RETRIEVE, encoded.model.search.nearest, encoded.vectors, most, list(allowed))
    engines.ladder.observe(RETRIEVE, seconds)
    if min(wanted) < most:
        _trim(found, wanted)
    return found


def _trim(found: Found, wanted: Sequence[int]) -> None:
    """Drops what was found only because another user of the batch wants more: no answer depends on its batch."""
    for user, num_items in enumerate(wanted):
        rows, scores = found.rows[user, num_items:], found.scores[user, num_items:]
        if found.others is not None:
            held = rows != MISSING_ROW
            found.others[user, rows[held]] = scores[held]
        rows[:] = MISSING_ROW
        scores[:] = -np.inf

"""The users' vectors: the stored ones where they are up to date, else the user tower's, in one run for a batch.

A stored vector is a cache of what the tower makes of the stored state. It does not know of `recent_item_ids`, so a
request that brings any known item is encoded anew: a click changes the next answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from inference_server.core.degradation import Degraded
from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.engine_calls import call_engine
from inference_server.request.flow.ladder import Ladder, Rung
from inference_server.request.flow.types import Admitted, Encoded, Hydrated, Known, User
from inference_server.telemetry.statistics import Statistics
from tandem.contract.features import with_recent_items
from tandem.contract.names import EVENT_CODES
from tandem.contract.store import UserState, UserVector
from tandem.contract.vocabulary import MISSING_ROW

_CLICK: Final = EVENT_CODES["click"]
_NOTHING_KNOWN: Final = UserState()
Vectors = list[npt.NDArray[np.float32] | None]
"""By user; None where there is none (yet)."""


async def encode_users(
    hydrated: Hydrated, threads: Executor, ladder: Ladder, statistics: Statistics
) -> tuple[list[Encoded], list[User]]:
    """Finds or computes the users' vectors, and chooses their rungs.

    Returns the users with a vector by rung, the most urgent first, and those without one: nothing is known of them, or
    no time is left.
    """
    if not hydrated.requests:
        return [], []
    model = hydrated.requests[0].model
    now = time.monotonic()
    users = [
        user_of(admitted, known, ladder.rung(admitted.deadline - now))
        for admitted, known in zip(hydrated.requests, hydrated.known, strict=True)
    ]
    history_rows = _history_rows([user.state for user in users], model)
    behaving = history_rows[:, -1] != MISSING_ROW
    if len(model.live.slots):
        for place in np.flatnonzero(~behaving).tolist():
            # Whoever knows nothing but items that came after the bundle has a vector all the same.
            behaving[place] = len(model.known_rows(users[place].state.event_item_keys)) > 0
    vectors: Vectors = [None] * len(users)
    to_run: list[int] = []
    for place, (user, known) in enumerate(zip(users, hydrated.known, strict=True)):
        if behaving[place] and user.rung is not Rung.FROM_MEMORY:
            vectors[place] = None if user.is_extended else _fresh(known.stored_vector, user.state, model)
            if vectors[place] is None:
                to_run.append(place)
    if to_run:
        await _run_tower(users, vectors, to_run, threads, ladder, statistics)
    others = [user for user, vector in zip(users, vectors, strict=True) if vector is None]
    encoded = []
    for rung in sorted({user.rung for user in users}, reverse=True):
        places = [n for n, user in enumerate(users) if user.rung is rung and vectors[n] is not None]
        if places:
            of_rung = Encoded(
                model=model,
                users=[users[n] for n in places],
                vectors=np.stack([vector for n in places if (vector := vectors[n]) is not None]),
                history_rows=history_rows[places],
            )
            encoded.append(of_rung)
    return encoded, others


def user_of(admitted: Admitted, known: Known, rung: Rung) -> User:
    """What is known of a user, from the store and from the request."""
    state = known.state or _NOTHING_KNOWN
    reasons = known.degraded_reasons
    is_extended = False
    if admitted.query.recent_item_ids:
        with_recent = with_recent_items(state, admitted.query.recent_item_ids, _CLICK)
        count = len(admitted.query.recent_item_ids)
        if len(admitted.model.known_rows(with_recent.event_item_keys[-count:])):
            state, is_extended = with_recent, True
    if rung is Rung.FROM_MEMORY:
        reasons = (*reasons, Degraded.DEADLINE)
    return User(admitted=admitted, state=state, is_extended=is_extended, rung=rung, degraded_reasons=reasons)


def _history_rows(states: Sequence[UserState], model: ServingModel) -> npt.NDArray[np.int64]:
    """See `Encoded.history_rows`."""
    width = model.num_events_ranked_by
    keys = np.zeros((len(states), width), dtype=np.uint64)
    counts = np.zeros(len(states), dtype=np.int64)
    for place, state in enumerate(states):
        newest = state.event_item_keys[-width:]
        counts[place] = len(newest)
        if len(newest):
            keys[place, -len(newest) :] = newest
    rows = model.bundle.item_vocabulary.rows_of_keys(keys.reshape(-1)).reshape(keys.shape)
    events = np.arange(width) >= width - counts[:, None]
    rows[~events] = MISSING_ROW
    for unknown in np.flatnonzero(((rows == MISSING_ROW) & events).any(axis=1)).tolist():
        # Some of the newest events are on items that the bundle does not hold: older ones take their place.
        known = model.bundle_catalogue.known_rows(states[unknown].event_item_keys)[-width:]
        rows[unknown] = MISSING_ROW
        if len(known):
            rows[unknown, -len(known) :] = known
    return rows


def _fresh(stored: UserVector | None, state: UserState, model: ServingModel) -> npt.NDArray[np.float32] | None:
    """The stored vector, if it was computed from this state and can be used with this model."""
    if stored is None or stored.state_revision != state.revision:
        return None
    if len(stored.values) != model.bundle.manifest.embedding_dim or not _is_finite(stored.values):
        return None
    return stored.values


async def _run_tower(  # noqa: PLR0917 - what a run needs, and where it is counted
    users: list[User],
    vectors: Vectors,
    places: list[int],
    threads: Executor,
    ladder: Ladder,
    statistics: Statistics,
) -> None:
    """Fills in the vectors of these users; where one is not finite, the reason instead."""
    statistics.user_tower_runs += len(places)
    model = users[places[0]].admitted.model
    computed, seconds = await call_engine(
        threads,
        ladder.encode_seconds,
        model.encode_users,
        [users[place].admitted.query.user_id for place in places],
        [users[place].state for place in places],
    )
    ladder.observe(encode=seconds)
    for place, vector in zip(places, computed, strict=True):
        if _is_finite(vector):
            vectors[place] = vector
        else:
            reasons = (*users[place].degraded_reasons, Degraded.USER_VECTOR_NOT_FINITE)
            users[place] = replace(users[place], degraded_reasons=reasons)


def _is_finite(vector: npt.NDArray[np.float32]) -> bool:
    # One product is four times as fast as np.isfinite(...).all() on a vector of this size.
    return math.isfinite(float(vector @ vector))

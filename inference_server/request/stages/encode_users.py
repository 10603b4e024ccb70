"""The users' vectors: stored vectors where they are up to date, else the user tower's, from one run for the batch.

A stored vector is a cache of the tower's output for the stored state. It does not take `recent_item_ids` into account,
so a request with any known recent item is encoded anew: a click changes the next answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from inference_server.core.degradation import Degraded
from inference_server.model.engine.linear import LinearScores
from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.engine_calls import EngineCalls
from inference_server.request.flow.ladder import ENCODE_USER, Rung
from inference_server.request.flow.stage_clock import stage
from inference_server.request.flow.types import Admitted, Encoded, Hydrated, Known, User
from inference_server.telemetry.statistics import Statistics
from tandem.contract.features import older_rows, with_recent_items
from tandem.contract.names import EVENT_CODES
from tandem.contract.store import UserState, UserVector
from tandem.contract.vocabulary import MISSING_ROW, Rows

_CLICK: Final = EVENT_CODES["click"]
_NOTHING_KNOWN: Final = UserState()
Vectors = list[npt.NDArray[np.float32] | None]
"""A vector for each user; None where there is none (yet)."""


@stage(ENCODE_USER)
async def encode_users(
    hydrated: Hydrated, engines: EngineCalls, statistics: Statistics
) -> tuple[list[Encoded], list[User]]:
    """Finds or computes the users' vectors, and chooses their rungs.

    Returns the users with a vector, as one `Encoded` per rung, the most urgent rung first, and the users without a
    vector: those who are unknown, and those whose time is too short.
    """
    if not hydrated.requests:
        return [], []
    model = hydrated.requests[0].model
    states = [_state_of(admitted, known) for admitted, known in zip(hydrated.requests, hydrated.known, strict=True)]
    history_rows = _history_rows([state for state, _ in states], model)
    has_events = _have_events([state for state, _ in states], history_rows, model)
    now = time.monotonic()
    users: list[User] = []
    vectors: Vectors = []
    to_encode: list[int] = []
    for index, (admitted, known, (state, is_extended)) in enumerate(
        zip(hydrated.requests, hydrated.known, states, strict=True)
    ):
        vector = None if is_extended or not has_events[index] else _fresh(known.stored_vector, state, model)
        encodes = vector is None and bool(has_events[index])
        rung = engines.ladder.rung(admitted.deadline - now, encodes=encodes)
        users.append(_user(admitted, known, state, is_extended=is_extended, rung=rung))
        if rung is Rung.FROM_MEMORY:
            vector = None
        elif encodes:
            to_encode.append(index)
        vectors.append(vector)
    if to_encode:
        await _run_tower(users, vectors, to_encode, engines, statistics)
    return _by_rung(model, users, vectors, history_rows), [
        user for user, vector in zip(users, vectors, strict=True) if vector is None
    ]


def user_from_memory(admitted: Admitted) -> User:
    """The user of a request that a list from memory must answer: no time is left to read the store."""
    known = Known()
    state, is_extended = _state_of(admitted, known)
    return _user(admitted, known, state, is_extended=is_extended, rung=Rung.FROM_MEMORY)


def _state_of(admitted: Admitted, known: Known) -> tuple[UserState, bool]:
    """(the stored state with the request's recent items, whether the catalogue has any of these items)."""
    state = known.state or _NOTHING_KNOWN
    if admitted.query.recent_item_ids:
        with_recent = with_recent_items(state, admitted.query.recent_item_ids, _CLICK)
        count = len(admitted.query.recent_item_ids)
        if len(admitted.model.known_rows(with_recent.event_item_keys[-count:])):
            return with_recent, True
    return state, False


def _user(admitted: Admitted, known: Known, state: UserState, *, is_extended: bool, rung: Rung) -> User:
    reasons = known.degraded_reasons
    if rung is Rung.FROM_MEMORY:
        reasons = (*reasons, Degraded.DEADLINE)
    return User(admitted=admitted, state=state, is_extended=is_extended, rung=rung, degraded_reasons=reasons)


def _have_events(
    states: Sequence[UserState], history_rows: npt.NDArray[np.int64], model: ServingModel
) -> npt.NDArray[np.bool_]:
    """Which users have an event on an item of the catalogue: (users,) bool."""
    has_events: npt.NDArray[np.bool_] = history_rows[:, -1] != MISSING_ROW
    if len(model.live.slots):
        for index in np.flatnonzero(~has_events).tolist():
            # `history_rows` leaves out the items that came after the bundle; the tower reads their vectors.
            has_events[index] = len(model.known_rows(states[index].event_item_keys)) > 0
    return has_events


def _by_rung(
    model: ServingModel, users: Sequence[User], vectors: Vectors, history_rows: npt.NDArray[np.int64]
) -> list[Encoded]:
    """The users with a vector, as one `Encoded` per rung, the most urgent rung first."""
    encoded = []
    for rung in sorted({user.rung for user in users}, reverse=True):
        rung_vectors = {
            index: vector
            for index, (user, vector) in enumerate(zip(users, vectors, strict=True))
            if user.rung is rung and vector is not None
        }
        if rung_vectors:
            indices = list(rung_vectors)
            rows = history_rows[indices]
            older: Sequence[Rows] = ()
            if model.reads_whole_histories:
                older = older_rows([users[index].state for index in indices], model.bundle.item_vocabulary)
            encoded.append(
                Encoded(
                    model=model,
                    users=[users[index] for index in indices],
                    vectors=np.stack(list(rung_vectors.values())),
                    history_rows=rows,
                    linear=LinearScores(model.linear, rows, older),
                )
            )
    return encoded


def _history_rows(states: Sequence[UserState], model: ServingModel) -> npt.NDArray[np.int64]:
    """See `Encoded.history_rows`."""
    width = model.num_events_ranked_by
    keys = np.zeros((len(states), width), dtype=np.uint64)
    counts = np.zeros(len(states), dtype=np.int64)
    for index, state in enumerate(states):
        newest = state.event_item_keys[-width:]
        counts[index] = len(newest)
        if len(newest):
            keys[index, -len(newest) :] = newest
    rows = model.bundle.item_vocabulary.rows_of_keys(keys.reshape(-1)).reshape(keys.shape)
    events = np.arange(width) >= width - counts[:, None]
    rows[~events] = MISSING_ROW
    for index in np.flatnonzero(((rows == MISSING_ROW) & events).any(axis=1)).tolist():
        # Some of the newest events are on items that the bundle does not hold: older events replace them.
        known = model.bundle_catalogue.known_rows(states[index].event_item_keys)[-width:]
        rows[index] = MISSING_ROW
        if len(known):
            rows[index, -len(known) :] = known
    return rows


def _fresh(stored: UserVector | None, state: UserState, model: ServingModel) -> npt.NDArray[np.float32] | None:
    """The stored vector, if it was computed from this state and can be used with this model."""
    if stored is None or stored.state_revision != state.revision:
        return None
    if len(stored.values) != model.bundle.manifest.embedding_dim or not _is_finite(stored.values):
        return None
    return stored.values


async def _run_tower(
    users: list[User], vectors: Vectors, indices: list[int], engines: EngineCalls, statistics: Statistics
) -> None:
    """Fills in the vectors of the users at `indices`; a user whose vector is not finite gets a reason instead.

    Requests of one user with the same recent items have one vector.
    """
    model = users[indices[0]].admitted.model
    positions: dict[tuple[str, tuple[str, ...]], int] = {}
    encoded: list[User] = []
    position_of = []
    for index in indices:
        query = users[index].admitted.query
        position = positions.setdefault((query.user_id, query.recent_item_ids), len(encoded))
        if position == len(encoded):
            encoded.append(users[index])
        position_of.append(position)
    statistics.user_tower_runs += len(encoded)
    computed, seconds = await engines.call(
        ENCODE_USER,
        model.encode_users,
        [user.admitted.query.user_id for user in encoded],
        [user.state for user in encoded],
    )
    engines.ladder.observe(ENCODE_USER, seconds)
    for index, position in zip(indices, position_of, strict=True):
        vector = computed[position]
        if _is_finite(vector):
            vectors[index] = vector
        else:
            users[index] = users[index].with_reason(Degraded.USER_VECTOR_NOT_FINITE)


def _is_finite(vector: npt.NDArray[np.float32]) -> bool:
    # One product is four times as fast as np.isfinite(...).all() on a vector of this size.
    return math.isfinite(float(vector @ vector))

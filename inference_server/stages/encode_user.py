"""The user's vector: the stored one where it is up to date, else the user tower's.

The stored vector is a cache of what the tower makes of the stored state. It does not know of `recent_item_ids`, so a
request that brings any known item is encoded anew: a click changes the next answer.
"""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from inference_server.degradation import Degraded
from inference_server.serving_model import ServingModel
from inference_server.stages.admit import Admitted
from inference_server.stages.hydrate import Hydrated
from inference_server.statistics import Statistics
from tandem.contract.features import with_recent_items
from tandem.contract.names import EVENT_CODES
from tandem.contract.store import UserState, UserVector
from tandem.contract.vocabulary import Rows

SECONDS_TO_ENCODE: Final = 0.002
"""Least time left with which the user tower is begun: it takes 0.1 ms, and up to this where the machine is busy."""
SECONDS_TO_FALL_BACK: Final = 0.001
"""Time kept back from the tower for a fallback answer."""

_CLICK: Final = EVENT_CODES["click"]
_NO_ROWS: Final[Rows] = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A request with its user's vector."""

    admitted: Admitted
    vector: npt.NDArray[np.float32] | None
    """(dim,) float32; None where there is no personal answer."""
    state: UserState
    """The stored state with the recent items as its newest events; empty for a user of whom nothing is known."""
    seen_rows: Rows
    """(n,) int64: items of the catalogue that the user has interacted with, the recent ones included."""
    degraded_reasons: tuple[Degraded, ...]


async def encode_user(hydrated: Hydrated, threads: Executor, statistics: Statistics) -> Encoded:
    """Finds or computes the user's vector. A user without any event on a known item has none."""
    admitted = hydrated.admitted
    model = admitted.model
    recent_item_ids = admitted.query.recent_item_ids
    stored_vector = hydrated.stored_vector
    state = hydrated.state or UserState()
    if recent_item_ids:
        with_recent = with_recent_items(state, recent_item_ids, _CLICK)
        if len(model.known_rows(with_recent.event_item_keys[-len(recent_item_ids) :])):
            state, stored_vector = with_recent, None
    seen_rows = model.known_rows(state.seen_item_keys)
    vector: npt.NDArray[np.float32] | None = None
    reasons = hydrated.degraded_reasons
    if len(seen_rows):
        vector = _fresh(stored_vector, state, model)
        if vector is None:
            vector, reason = await _run_tower(admitted, state, threads, statistics)
            reasons = reasons if reason is None else (*reasons, reason)
    return Encoded(admitted=admitted, vector=vector, state=state, seen_rows=seen_rows, degraded_reasons=reasons)


def _fresh(stored: UserVector | None, state: UserState, model: ServingModel) -> npt.NDArray[np.float32] | None:
    """The stored vector, if it was computed from this state and can be used with this model."""
    if stored is None or stored.state_revision != state.revision:
        return None
    if len(stored.values) != model.bundle.manifest.embedding_dim or not _is_finite(stored.values):
        return None
    return stored.values


async def _run_tower(
    admitted: Admitted, state: UserState, threads: Executor, statistics: Statistics
) -> tuple[npt.NDArray[np.float32] | None, Degraded | None]:
    if not len(admitted.model.known_rows(state.event_item_keys)):
        return None, None
    seconds_left = admitted.deadline - SECONDS_TO_FALL_BACK - time.monotonic()
    if seconds_left < SECONDS_TO_ENCODE:
        return None, Degraded.DEADLINE
    statistics.user_tower_runs += 1
    try:
        # In a thread, because the tower is matrix products that release the GIL while the event loop goes on; the
        # timeout also takes the call out of the threads' queue when they are too busy to begin it.
        async with asyncio.timeout(seconds_left):
            vector = await asyncio.get_running_loop().run_in_executor(
                threads, admitted.model.encode_user, admitted.query.user_id, state
            )
    except TimeoutError:
        return None, Degraded.DEADLINE
    return (vector, None) if _is_finite(vector) else (None, Degraded.USER_VECTOR_NOT_FINITE)


def _is_finite(vector: npt.NDArray[np.float32]) -> bool:
    # One product is four times as fast as np.isfinite(...).all() on a vector of this size.
    return math.isfinite(float(vector @ vector))

"""Hydration: reads the state and the vector of each user of a batch, in one read of two keys per user, however many
requests of the batch are for that user."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from inference_server.core.degradation import Degraded
from inference_server.request.flow.stage_clock import stage
from inference_server.request.flow.types import Admitted, Hydrated, Known
from inference_server.store.user_store import ReadsStore, StoreFailed, Values
from tandem.contract.errors import StoreValueError
from tandem.contract.store import UserState, UserVector, user_state_key, user_vector_key

STORE_SHARE: Final = 0.5
"""Share of a request's time that reading the store may take; the rest is for the later stages."""

_ANONYMOUS: Final = Known()
_LATE: Final = Known(degraded_reasons=(Degraded.STORE_TIMEOUT,))


@stage("hydrate")
async def hydrate(batch: Sequence[Admitted], store: ReadsStore) -> AsyncIterator[Hydrated]:
    """Reads the users' states and vectors, and yields the batch, usually as a whole.

    Requests whose store budget runs out are yielded first, without stored data.
    """
    keys: list[bytes] = []
    positions: dict[str, int] = {}
    for admitted in batch:
        user_id = admitted.query.user_id
        if user_id and user_id not in positions:
            positions[user_id] = len(keys)
            keys += (user_vector_key(admitted.model.version, user_id), user_state_key(user_id))
    if not keys:
        yield Hydrated(requests=batch, known=[_ANONYMOUS] * len(batch))
        return
    reading = store.read(keys, max(map(_gives_up_at, batch)) - time.monotonic())
    waiting = list(batch)
    while not reading.done():
        patience_seconds = min(map(_gives_up_at, waiting)) - time.monotonic()
        if patience_seconds > 0.0:
            await asyncio.wait((reading,), timeout=patience_seconds)
        if not reading.done():
            now = time.monotonic()
            late = [admitted for admitted in waiting if _gives_up_at(admitted) <= now]
            waiting = [admitted for admitted in waiting if _gives_up_at(admitted) > now and not admitted.caller.gone]
            if late:
                yield Hydrated(
                    requests=late, known=[_LATE if admitted.query.user_id else _ANONYMOUS for admitted in late]
                )
            if not waiting:
                return
    yield _distribute(batch, {id(admitted) for admitted in waiting}, positions, reading, store.absence)


def _gives_up_at(admitted: Admitted) -> float:
    return admitted.admitted_at + STORE_SHARE * (admitted.deadline - admitted.admitted_at)


def _distribute(
    batch: Sequence[Admitted],
    waiting_ids: set[int],
    positions: Mapping[str, int],
    reading: asyncio.Task[Values],
    absence: Degraded | None,
) -> Hydrated:
    """Parses the values of the requests that still wait, those of a user once: `positions` says where they begin. Drops
    requests whose callers are gone."""
    failure: Known | None = None
    values: Values = []
    try:
        values = reading.result()
    except StoreFailed as error:
        failure = Known(degraded_reasons=(error.reason,))
    requests: list[Admitted] = []
    known: list[Known] = []
    known_by_user: dict[str, Known] = {"": _ANONYMOUS}
    for admitted in batch:
        if id(admitted) not in waiting_ids or admitted.caller.gone:
            continue
        user_id = admitted.query.user_id
        of_user = known_by_user.get(user_id)
        if of_user is None:
            if failure is not None:
                of_user = failure
            else:
                position = positions[user_id]
                of_user = _parse(values[position], values[position + 1], absence)
            known_by_user[user_id] = of_user
        requests.append(admitted)
        known.append(of_user)
    return Hydrated(requests=requests, known=known)


def _parse(vector: bytes | None, state: bytes | None, absence: Degraded | None) -> Known:
    reasons: tuple[Degraded, ...] = (absence,) if state is None and absence is not None else ()
    read_state: UserState | None = None
    read_vector: UserVector | None = None
    try:
        if state is not None:
            read_state = UserState.from_bytes(state)
        if vector is not None:
            read_vector = UserVector.from_bytes(vector)
    except StoreValueError:
        # An unreadable vector is computed anew by the user tower; the reason tells operators what that costs.
        reasons += (Degraded.STORE_VALUE_UNREADABLE,)
    return Known(state=read_state, stored_vector=read_vector, degraded_reasons=reasons)

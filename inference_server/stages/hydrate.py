"""Hydration: what the online store knows of the user, in one read of two keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from inference_server.degradation import Degraded
from inference_server.stages.admit import Admitted
from inference_server.store import UserStore
from tandem.contract.errors import StoreValueError
from tandem.contract.store import UserState, UserVector, user_state_key, user_vector_key

STORE_SHARE: Final = 0.5
"""Share of a request's time that the store may take; the rest is for the user tower, the search and the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hydrated:
    """A request with what is stored of its user."""

    admitted: Admitted
    state: UserState | None = None
    """None: nothing is known of the user, or the store did not say."""
    stored_vector: UserVector | None = None
    """Of the model that answers, whatever state it was computed from."""
    degraded_reasons: tuple[Degraded, ...] = ()


async def hydrate(admitted: Admitted, store: UserStore) -> Hydrated:
    """Reads the user's state and vector. Without a user id there is nothing to read."""
    user_id = admitted.query.user_id
    if not user_id:
        return Hydrated(admitted=admitted)
    reply = await store.fetch(
        user_vector_key(admitted.model.version, user_id),
        user_state_key(user_id),
        give_up_at=admitted.admitted_at + STORE_SHARE * (admitted.deadline - admitted.admitted_at),
    )
    if reply.failure is not None:
        return Hydrated(admitted=admitted, degraded_reasons=(reply.failure,))
    try:
        state = UserState.from_bytes(reply.state) if reply.state is not None else None
    except StoreValueError:
        return Hydrated(admitted=admitted, degraded_reasons=(Degraded.STORE_VALUE_UNREADABLE,))
    try:
        vector = UserVector.from_bytes(reply.vector) if reply.vector is not None else None
    except StoreValueError:
        # The user tower makes up for the vector, at the price that the reason tells operators of.
        return Hydrated(admitted=admitted, state=state, degraded_reasons=(Degraded.STORE_VALUE_UNREADABLE,))
    return Hydrated(admitted=admitted, state=state, stored_vector=vector)

"""Requests as they are between two stages, for the tests of single stages."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from inference_server.core.query import NO_FILTER, ItemFilter, Query
from inference_server.model.engine.linear import LinearScores
from inference_server.model.page_token import request_fingerprint
from inference_server.model.serving_model import ServingModel
from inference_server.policy.policy import Policy
from inference_server.request.flow.ladder import ENCODE_USER, Ladder, Rung
from inference_server.request.flow.types import Admitted, Caller, Encoded, User
from tandem.contract.ranking import PROFILE_EVENTS
from tandem.contract.store import UserState
from tandem.contract.vocabulary import MISSING_ROW

_FILTER_FIELDS = {field.name for field in dataclasses.fields(ItemFilter)}
DEFAULT_POLICY = Policy()


def query(**fields: object) -> Query:
    """A query from its fields and the fields of its filter."""
    filter_fields = {name: value for name, value in fields.items() if name in _FILTER_FIELDS}
    query_fields = {name: value for name, value in fields.items() if name not in _FILTER_FIELDS}
    item_filter = ItemFilter(**filter_fields) if filter_fields else NO_FILTER  # type: ignore[arg-type]
    return Query(**{"user_id": "u", "num_items": 10, "filter": item_filter, **query_fields})  # type: ignore[arg-type]


def admitted(
    model: ServingModel, *, seconds: float = 60.0, policy: Policy = DEFAULT_POLICY, **fields: object
) -> Admitted:
    """A request with the fields of `query`. Needs a running event loop, as admission does."""
    asked = query(**fields)
    now = time.monotonic()
    return Admitted(
        request_id="r",
        query=asked,
        num_items=asked.num_items,
        policy=policy,
        model=model,
        caller=Caller(asyncio.get_running_loop()),
        admitted_at=now,
        deadline=now + seconds,
        fingerprint=request_fingerprint(asked),
    )


def user_with(
    request: Admitted, state: UserState | None = None, *, rung: Rung = Rung.FULL, degraded_reasons: tuple = ()
) -> User:
    """A user with a known state."""
    return User(
        admitted=request,
        state=state or UserState(),
        is_extended=False,
        rung=rung,
        degraded_reasons=degraded_reasons,
    )


def encoded_with(users: Sequence[User], vectors: Sequence[npt.NDArray[np.float32]]) -> Encoded:
    """Users of one model, with their vectors."""
    model = users[0].admitted.model
    history_rows = np.full((len(users), PROFILE_EVENTS), MISSING_ROW, dtype=np.int64)
    for index, user in enumerate(users):
        known = model.known_rows(user.state.event_item_keys)[-PROFILE_EVENTS:]
        if len(known):
            history_rows[index, -len(known) :] = known
    return Encoded(
        model=model,
        users=users,
        vectors=np.stack(vectors).astype(np.float32),
        history_rows=history_rows,
        linear=LinearScores(model.linear, history_rows),
    )


def slow_tower() -> Ladder:
    """A ladder whose recent cost of the user tower is high, so that the tower runs in a thread."""
    ladder = Ladder()
    ladder.observe(ENCODE_USER, 100.0)
    return ladder

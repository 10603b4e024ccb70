"""Requests as they are between two stages, for the tests of single stages."""

from __future__ import annotations

import time

from inference_server.serving_model import ServingModel
from inference_server.stages.admit import Admitted, Query
from inference_server.stages.encode_user import Encoded
from tandem.contract.store import UserState


def query(**fields: object) -> Query:
    return Query(**{"user_id": "u", "num_items": 10, **fields})  # type: ignore[arg-type]


def admitted(model: ServingModel, *, seconds: float = 60.0, **fields: object) -> Admitted:
    asked = query(**fields)
    now = time.monotonic()
    return Admitted(
        request_id="r", query=asked, num_items=asked.num_items, model=model, admitted_at=now, deadline=now + seconds
    )


def encoded_with(model: ServingModel, state: UserState | None = None, **fields: object) -> Encoded:
    state = state or UserState()
    return Encoded(
        admitted=admitted(model, **fields),
        vector=None,
        state=state,
        seen_rows=model.known_rows(state.seen_item_keys),
        degraded_reasons=(),
    )

"""Requests as they are between two stages, for the tests of single stages."""

from __future__ import annotations

import dataclasses
import time

from inference_server.serving_model import ServingModel
from inference_server.query import ItemFilter, Query
from inference_server.stages.admit import Admitted
from inference_server.stages.encode_user import Encoded
from tandem.contract.store import UserState


_FILTER_FIELDS = {field.name for field in dataclasses.fields(ItemFilter)}


def query(**fields: object) -> Query:
    """A query; fields of its filter are given beside its own."""
    of_filter = {name: value for name, value in fields.items() if name in _FILTER_FIELDS}
    own = {name: value for name, value in fields.items() if name not in _FILTER_FIELDS}
    item_filter = ItemFilter(**of_filter)  # type: ignore[arg-type]
    return Query(**{"user_id": "u", "num_items": 10, "filter": item_filter, **own})  # type: ignore[arg-type]


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

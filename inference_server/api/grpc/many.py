"""RecommendMany over gRPC: its queries from the wire, and their outcomes to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from inference_server.api.grpc.bulk import INTERNAL, set_error
from inference_server.api.grpc.status_of_errors import STATUS_OF
from inference_server.api.internal_error import InternalError
from inference_server.api.many import Outcome, check_queries, count_queries, is_in_bulk, outcomes_of
from inference_server.api.wire import to_query, to_response
from inference_server.core.errors import RequestError
from inference_server.request.recommender import Recommender
from inference_server.telemetry.statistics import Statistics
from tandem.v1 import recommendation_pb2 as pb

_ITEMS_PER_TURN: Final = 320
"""Items that are written before other requests have a turn: those of 32 short lists, or of one of 500 items."""


async def recommend_many(
    request: pb.RecommendManyRequest,
    recommender: Recommender,
    statistics: Statistics,
    time_remaining_seconds: float | None,
    *,
    traceparent: str | None,
) -> pb.RecommendManyResponse:
    """Answers a call with many queries. Raises RequestError for what concerns the whole call."""
    ids = [query.correlation_id for query in request.queries]
    check_queries(ids)
    outcomes = await outcomes_of(
        [to_query(query.request) for query in request.queries],
        recommender,
        time_remaining_seconds,
        in_bulk=is_in_bulk(request.priority),
        traceparent=traceparent,
    )
    count_queries(outcomes, lambda error: STATUS_OF[type(error)].name, statistics)
    return await _response(ids, outcomes)


async def _response(ids: Sequence[str], outcomes: Sequence[Outcome]) -> pb.RecommendManyResponse:
    response = pb.RecommendManyResponse()
    num_items = 0
    for correlation_id, outcome in zip(ids, outcomes, strict=True):
        if num_items > _ITEMS_PER_TURN:
            num_items = 0
            await asyncio.sleep(0)  # others have a turn
        entry = response.outcomes.add(correlation_id=correlation_id)
        if isinstance(outcome, RequestError):
            set_error(entry, outcome)
        elif isinstance(outcome, InternalError):
            entry.error.code, entry.error.message = INTERNAL, outcome.message
        else:
            entry.response.CopyFrom(to_response(outcome))
            num_items += len(outcome.item_ids)
    return response

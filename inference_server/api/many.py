"""RecommendMany for every protocol: what concerns the call as a whole, and the outcome of each query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from inference_server.api.internal_error import InternalError, internal_error
from inference_server.core.answers import Answer
from inference_server.core.errors import InvalidRequest, RequestError
from inference_server.core.query import Query
from inference_server.request.flow.limits import (
    DEFAULT_NUM_ITEMS,
    MAX_ITEMS_OF_MANY,
    MAX_NUM_ITEMS,
    MAX_QUERIES,
    is_too_long,
)
from inference_server.request.recommender import Recommender
from inference_server.telemetry.statistics import Statistics
from tandem.contract.store import MAX_ID_BYTES
from tandem.v1 import recommendation_pb2 as pb

Outcome = Answer | RequestError | InternalError

_IN_BULK: Final[Mapping[int, bool]] = {
    pb.RECOMMEND_PRIORITY_UNSPECIFIED: False,
    pb.RECOMMEND_PRIORITY_INTERACTIVE: False,
    pb.RECOMMEND_PRIORITY_BULK: True,
}
_OK: Final = "OK"
_INTERNAL: Final = "INTERNAL"


async def outcomes_of(
    queries: Sequence[Query | InvalidRequest],
    recommender: Recommender,
    time_remaining_seconds: float | None,
    *,
    in_bulk: bool,
    traceparent: str | None,
) -> list[Outcome]:
    """The outcome of each query; one that could not be read (InvalidRequest) is refused so. The field of an error is
    named from the whole request on.

    Raises RequestError for what concerns the whole call.
    """
    read = [query for query in queries if isinstance(query, Query)]
    _check_num_items(read)
    answering = recommender.recommend_many(read, time_remaining_seconds, in_bulk=in_bulk, traceparent=traceparent)
    outcomes = iter(await answering)
    found: list[Outcome] = []
    for index, query in enumerate(queries):
        outcome = next(outcomes) if isinstance(query, Query) else query
        if isinstance(outcome, InvalidRequest):
            field = f"queries[{index}].request.{outcome.field}".removesuffix(".")
            found.append(InvalidRequest(field, outcome.description))
        elif isinstance(outcome, Answer | RequestError):
            found.append(outcome)
        else:
            found.append(_reported(outcome, user_id=query.user_id if isinstance(query, Query) else ""))
    return found


def is_in_bulk(priority: int) -> bool:
    """Whether a call of this `RecommendPriority` yields to others. Raises InvalidRequest."""
    if priority not in _IN_BULK:
        raise InvalidRequest("priority", f"must be one of {', '.join(pb.RecommendPriority.keys())}, is {priority}")
    return _IN_BULK[priority]


def check_queries(correlation_ids: Sequence[str]) -> None:
    """Raises InvalidRequest where the queries with these ids are no call: too many, or not to be told apart."""
    if not 1 <= len(correlation_ids) <= MAX_QUERIES:
        raise InvalidRequest("queries", f"must have 1 to {MAX_QUERIES} entries, has {len(correlation_ids)}")
    first: dict[str, int] = {}
    for index, correlation_id in enumerate(correlation_ids):
        field = f"queries[{index}].correlation_id"
        if is_too_long(correlation_id):
            raise InvalidRequest(field, f"must have at most {MAX_ID_BYTES} bytes of UTF-8")
        if correlation_id and first.setdefault(correlation_id, index) != index:
            raise InvalidRequest(field, f"is that of queries[{first[correlation_id]}] as well")


def count_queries(outcomes: Sequence[Outcome], name_of: Callable[[RequestError], str], statistics: Statistics) -> None:
    """Counts the queries of a call by the name of the gRPC status that a Recommend call would have ended with."""
    for outcome in outcomes:
        code = _INTERNAL
        if isinstance(outcome, Answer):
            code = _OK
        elif isinstance(outcome, RequestError):
            code = name_of(outcome)
        statistics.many_queries_by_code[code] += 1


def _check_num_items(queries: Sequence[Query]) -> None:
    """Raises InvalidRequest where the queries ask for too many items together. One that asks for more than a query may
    is refused alone, later."""
    asked = sum(query.num_items or DEFAULT_NUM_ITEMS for query in queries if 0 <= query.num_items <= MAX_NUM_ITEMS)
    if asked > MAX_ITEMS_OF_MANY:
        raise InvalidRequest("queries", f"must ask for at most {MAX_ITEMS_OF_MANY:,} items together, ask for {asked:,}")


def _reported(error: Exception, *, user_id: str) -> InternalError:
    """Logs a bug of ours that one query met."""
    try:
        raise error
    except Exception:
        return internal_error(user_id=user_id)

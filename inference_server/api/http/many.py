"""POST /v1/recommend/many: a schema that looks at the call but not into its queries, and outcomes as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from google.rpc import code_pb2

from inference_server.api.http.errors import status_name
from inference_server.api.http.responses import recommend_payload
from inference_server.api.http.schemas import JsonSchema
from inference_server.api.http.validation import BODY, NOT_UNICODE, PayloadCheck
from inference_server.api.internal_error import InternalError
from inference_server.api.many import Outcome, check_queries, is_in_bulk
from inference_server.core.errors import InvalidRequest, RequestError
from inference_server.core.query import Query
from tandem.v1 import recommendation_pb2 as pb

OUTCOMES: Final = "outcomes"
"""The field of RecommendManyResponse."""
_DEFAULT_PRIORITY: Final = pb.RecommendPriority.Name(pb.RECOMMEND_PRIORITY_UNSPECIFIED)


def open_queries(schema: JsonSchema) -> JsonSchema:
    """The schema of the whole call, which takes any value for a query's request: each is checked by itself, so that a
    wrong one is refused alone."""
    entry = schema["$defs"]["RecommendBatchRequest"]
    opened = entry | {"properties": entry["properties"] | {"request": {}}}
    return schema | {"$defs": {"RecommendBatchRequest": opened}}


class ManyQueries:
    """The queries of one call."""

    def __init__(self, payload: Any, check: PayloadCheck, read: Callable[[Any], Query]) -> None:
        """`check` is that of the schema that `open_queries` makes; `read` makes a query of an entry's request.

        Raises InvalidRequest for what concerns the whole call.
        """
        try:
            check.check(payload)
            entries = payload["queries"]
            self._ids = [entry.get("correlation_id", "") for entry in entries]
            "".join(self._ids).encode()
        except UnicodeEncodeError:
            raise InvalidRequest(BODY, NOT_UNICODE) from None
        check_queries(self._ids)
        self.in_bulk = is_in_bulk(pb.RecommendPriority.Value(payload.get("priority", _DEFAULT_PRIORITY)))
        self.queries = [_read(entry.get("request", {}), read) for entry in entries]
        """InvalidRequest for an entry that cannot be read."""

    def entries(self, outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
        """The outcomes, as protobuf writes those of RecommendManyResponse, each made when it is asked for."""
        for correlation_id, outcome in zip(self._ids, outcomes, strict=True):
            yield {"correlation_id": correlation_id, **_outcome(outcome)}


def _read(request: Any, read: Callable[[Any], Query]) -> Query | InvalidRequest:
    try:
        return read(request)
    except InvalidRequest as error:
        return InvalidRequest("" if error.field == BODY else error.field, error.description)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, InternalError):
        return _error(code_pb2.INTERNAL, outcome.message)
    if isinstance(outcome, RequestError):
        field = outcome.field if isinstance(outcome, InvalidRequest) else ""
        return _error(code_pb2.Code.Value(status_name(outcome)), str(outcome), field)
    return {"response": recommend_payload(outcome)}


def _error(code: int, message: str, field: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "field": field}}

"""The part that the sync and the async client share: everything but carrying out a plan on a channel."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from tandem.client.arguments import instance, integer, invalid, seconds
from tandem.client.attempts import Plan, RetryBudget, RetryPolicy, attempts, until_ready
from tandem.client.connection import Endpoint, PemSource, endpoint
from tandem.client.errors import ClientClosed, Failure, TandemError, batch_failure_of, error_of, failure_of
from tandem.client.query import Filter, Query, recommend_many_request, recommend_request, similar_items_request
from tandem.client.results import (
    Recommendations,
    ServingStatus,
    SimilarItems,
    recommendations_of,
    serving_status_of,
    similar_items_of,
)
from tandem.client.writes import Event, Item, delete_items_request, record_events_request, upsert_items_request
from tandem.v1 import recommendation_pb2 as pb

ResultT = TypeVar("ResultT")

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name

DEADLINE_MS: Final = 100.0
"""Default deadline of a call."""
WRITE_DEADLINE_MS: Final = 2000.0
"""Default deadline of a call that writes; no page load waits for it."""
BATCH_DEADLINE_MS: Final = 60_000.0
"""Default deadline of a whole batch."""
KEEPALIVE_SECONDS: Final = 20.0
"""Default time without traffic after which a connection is pinged."""
MAX_PAGES: Final = 10
"""Default maximum number of pages of `pages`."""
READY_SECONDS: Final = 30.0
"""Default timeout of `wait_until_ready`."""
MAX_IN_FLIGHT: Final = 64
"""Default maximum number of unanswered requests of a batch."""

Method = str
"""HTTP/2 path of a method."""
RECOMMEND: Final = f"/{_SERVICE}/Recommend"
RECOMMEND_MANY: Final = f"/{_SERVICE}/RecommendMany"
RECOMMEND_BATCH: Final = f"/{_SERVICE}/RecommendBatch"
SIMILAR_ITEMS: Final = f"/{_SERVICE}/SimilarItems"
RECORD_EVENTS: Final = f"/{_SERVICE}/RecordEvents"
UPSERT_ITEMS: Final = f"/{_SERVICE}/UpsertItems"
DELETE_ITEMS: Final = f"/{_SERVICE}/DeleteItems"
GET_SERVING_STATUS: Final = f"/{_SERVICE}/GetServingStatus"
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"

UNARY_RESPONSES: Final[Mapping[Method, Callable[[bytes], Message]]] = {
    RECOMMEND: pb.RecommendResponse.FromString,
    RECOMMEND_MANY: pb.RecommendManyResponse.FromString,
    SIMILAR_ITEMS: pb.SimilarItemsResponse.FromString,
    RECORD_EVENTS: pb.RecordEventsResponse.FromString,
    UPSERT_ITEMS: pb.UpsertItemsResponse.FromString,
    DELETE_ITEMS: pb.DeleteItemsResponse.FromString,
    GET_SERVING_STATUS: pb.GetServingStatusResponse.FromString,
    HEALTH_CHECK: health_pb2.HealthCheckResponse.FromString,
}
"""Parser of each unary method's response."""

HEDGEABLE: Final = frozenset({RECOMMEND, RECOMMEND_MANY, SIMILAR_ITEMS, GET_SERVING_STATUS})
"""Methods that may run twice at the same time: reads only. A method that writes must never be in this set."""


_LOST_STATUS: Final = (grpc.StatusCode.INTERNAL, "Internal error from Core")
"""What grpc.aio reports for a stream that ends while a message is being written: the actual status is lost."""


@dataclass(frozen=True, kw_only=True)
class PreparedCall(Generic[ResultT]):
    """A unary call, ready to be carried out once."""

    method: Method
    request: Message
    plan: Plan
    read: Callable[[Any], ResultT]
    """Converts the response message to the result."""


class ClientCore(ABC):
    """Settings, retry budget and construction of calls."""

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        insecure: bool = False,
        root_certificates: PemSource | None = None,
        client_certificate: PemSource | None = None,
        client_key: PemSource | None = None,
        deadline_ms: float = DEADLINE_MS,
        retry: RetryPolicy | None = None,
        hedge_after_ms: float | None = None,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
    ) -> None:
        """A client of the server at `address`. The constructor sends nothing.

        `address` is grpc://host:port (plaintext), grpcs://host:port (TLS), or host:port, which is TLS unless
        `insecure`. Calls are spread over all addresses that the host resolves to. `api_key` is sent as a bearer token.
        Certificates are PEM bytes or paths of PEM files: `root_certificates` replaces gRPC's own, `client_certificate`
        and `client_key` are for servers that require a client certificate. `deadline_ms` is the default deadline of a
        call, including all attempts. After `hedge_after_ms` without an answer a second attempt starts; None: never. A
        connection with waiting calls is closed after 1.25 times `keepalive_seconds` without traffic; the server must
        allow pings that often.

        Raises InvalidArgument, naming the argument.
        """
        reached = endpoint(
            address,
            api_key=api_key,
            insecure=insecure,
            root_certificates=root_certificates,
            client_certificate=client_certificate,
            client_key=client_key,
            keepalive_seconds=seconds("keepalive_seconds", keepalive_seconds, unit_seconds=1.0),
        )
        self._deadline_ms = deadline_ms
        seconds("deadline_ms", deadline_ms)
        self._hedge_after_seconds = None if hedge_after_ms is None else seconds("hedge_after_ms", hedge_after_ms)
        self._policy = RetryPolicy() if retry is None else instance("retry", retry, RetryPolicy)
        self._budget = RetryBudget(self._policy)
        self._closed = False
        self._metadata = reached.metadata
        self._open(reached)

    @abstractmethod
    def _open(self, endpoint: Endpoint) -> None:
        """Opens the channel and its methods; called once, at the end of the constructor."""

    def _recommend_call(self, query: Query, deadline_ms: float | None) -> PreparedCall[Recommendations]:
        return PreparedCall(
            method=RECOMMEND,
            request=recommend_request(query),
            # A page belongs to a bundle, and during a rollout two servers may serve different bundles.
            plan=self._attempts(RECOMMEND, deadline_ms, hedged=not query.page_token),
            read=recommendations_of,
        )

    def _recommend_all_call(
        self, queries: Iterable[Query], *, in_bulk: bool, deadline_ms: float | None
    ) -> PreparedCall[list[Recommendations | TandemError]]:
        request = recommend_many_request(queries, in_bulk=in_bulk)
        # Nobody waits for a call in bulk, and a page belongs to a bundle, as in `_recommend_call`.
        hedged = not in_bulk and not any(query.request.page_token for query in request.queries)
        if deadline_ms is None and in_bulk:
            deadline_ms = BATCH_DEADLINE_MS
        return PreparedCall(
            method=RECOMMEND_MANY,
            request=request,
            plan=self._attempts(RECOMMEND_MANY, deadline_ms, hedged=hedged),
            read=lambda response: [batch_outcome(outcome)[1] for outcome in response.outcomes],
        )

    def _similar_items_call(
        self, item_ids: Sequence[str], *, num_items: int, filter: Filter, explain: bool, deadline_ms: float | None
    ) -> PreparedCall[SimilarItems]:
        return PreparedCall(
            method=SIMILAR_ITEMS,
            request=similar_items_request(item_ids, num_items=num_items, filter=filter, explain=explain),
            plan=self._attempts(SIMILAR_ITEMS, deadline_ms),
            read=similar_items_of,
        )

    def _record_events_call(self, events: Iterable[Event], deadline_ms: float) -> PreparedCall[int]:
        return self._write_call(RECORD_EVENTS, record_events_request(events), deadline_ms)

    def _upsert_items_call(self, items: Iterable[Item], deadline_ms: float) -> PreparedCall[int]:
        return self._write_call(UPSERT_ITEMS, upsert_items_request(items), deadline_ms)

    def _delete_items_call(self, item_ids: Iterable[str], deadline_ms: float) -> PreparedCall[int]:
        return self._write_call(DELETE_ITEMS, delete_items_request(item_ids), deadline_ms)

    def _write_call(self, method: Method, request: Message, deadline_ms: float) -> PreparedCall[int]:
        return PreparedCall(
            method=method,
            request=request,
            plan=self._attempts(method, deadline_ms),
            read=lambda response: int(response.num_accepted),
        )

    def _status_call(self, deadline_ms: float | None) -> PreparedCall[ServingStatus]:
        return PreparedCall(
            method=GET_SERVING_STATUS,
            request=pb.GetServingStatusRequest(),
            plan=self._attempts(GET_SERVING_STATUS, deadline_ms),
            read=serving_status_of,
        )

    def _ready_call(self, timeout_seconds: float) -> PreparedCall[None]:
        return PreparedCall(
            method=HEALTH_CHECK,
            request=health_pb2.HealthCheckRequest(service=_SERVICE),
            plan=until_ready(
                lambda response: bool(response.status == health_pb2.HealthCheckResponse.SERVING),
                timeout_seconds=seconds("timeout_seconds", timeout_seconds, unit_seconds=1.0),
            ),
            read=lambda _: None,
        )

    def _attempts(self, method: Method, deadline_ms: float | None, *, hedged: bool = True) -> Plan:
        self._check_open()
        return attempts(
            self._policy,
            self._budget,
            deadline_seconds=seconds("deadline_ms", self._deadline_ms if deadline_ms is None else deadline_ms),
            hedge_after_seconds=self._hedge_after_seconds if hedged and method in HEDGEABLE else None,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed(Failure(code=grpc.StatusCode.CANCELLED, message="the client is closed", num_attempts=0))

    def _failure_of(
        self, code: grpc.StatusCode, message: str | None, trailing_metadata: Iterable[tuple[str, str | bytes]] | None
    ) -> Failure:
        """The failure of a call with this status. CANCELLED that nobody asked for is UNAVAILABLE: a server that stops,
        or a proxy, has ended the call, and another server may answer it."""
        failure = failure_of(code, message, trailing_metadata)
        if code is grpc.StatusCode.CANCELLED and not self._closed:
            return replace(failure, code=grpc.StatusCode.UNAVAILABLE, message="the server ended the call: CANCELLED")
        return failure

    def _check_not_closed_meanwhile(self) -> None:
        """Raises Cancelled for a call in progress; the closed channel would raise an error of its own."""
        if self._closed:
            raise closed_meanwhile()


def closed_meanwhile() -> TandemError:
    """The error of a call whose client was closed before it ended."""
    return error_of(Failure(code=grpc.StatusCode.CANCELLED, message="the client was closed"))


def batch_outcome(response: pb.RecommendBatchResponse) -> tuple[str, Recommendations | TandemError]:
    """The correlation id of a batch entry, with its answer or its error."""
    outcome = response.WhichOneof("outcome")
    if outcome == "response":
        return response.correlation_id, recommendations_of(response.response)
    return response.correlation_id, error_of(batch_failure_of(response.error))


class BatchProgress:
    """Progress of a batch, updated both by the sender of requests and by the reader of answers."""

    def __init__(self, *, max_in_flight: int, deadline_ms: float) -> None:
        """Raises InvalidArgument."""
        if integer("max_in_flight", max_in_flight) < 1:
            raise invalid("max_in_flight", f"at least 1, not {max_in_flight}")
        self.deadline_seconds = seconds("deadline_ms", deadline_ms)
        self._give_up_at = time.monotonic() + self.deadline_seconds
        self.num_sent = 0
        self.num_answered = 0
        self.ended = False
        """Whether the reader of answers has stopped."""
        self.feed_error: Exception | None = None
        """Exception raised by the caller's iterable of requests."""

    def check_complete(self) -> None:
        """Raises `feed_error`, or Unavailable if the server left requests unanswered."""
        if self.feed_error is not None:
            raise self.feed_error
        if self.num_answered < self.num_sent:
            raise self._ended_early()

    def error_of(self, failure: Failure) -> Exception:
        """The exception for a stream that ended with `failure`: the one of the caller's requests, if there is one."""
        if self.feed_error is not None:
            return self.feed_error
        if (failure.code, failure.message) == _LOST_STATUS:
            return self._ended_early()
        return error_of(failure)

    def _ended_early(self) -> TandemError:
        if time.monotonic() >= self._give_up_at:
            return error_of(Failure(code=grpc.StatusCode.DEADLINE_EXCEEDED, message="Deadline Exceeded"))
        message = f"the server ended the batch with {self.num_sent - self.num_answered} requests unanswered"
        return error_of(Failure(code=grpc.StatusCode.UNAVAILABLE, message=message))


def to_bytes(request: Message) -> bytes:
    """The request in wire format."""
    return request.SerializeToString()

"""The HTTP API as an ASGI application. It uses the same recommender as gRPC and makes no decisions of its own.

FastAPI routes requests and describes the endpoints; it neither parses nor serialises. Its pydantic models would define
the API a second time, and cost more than an answer does. So endpoints take the request and return the response.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from fastapi import FastAPI
from fastapi.routing import APIRoute
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inference_server.api.http import openapi
from inference_server.api.http.body import TIMEOUT_HEADER, header, read_json, timeout_seconds
from inference_server.api.http.errors import (
    ClientGone,
    HttpRefusal,
    error_response,
    internal_error_response,
    refusal_response,
    status_name,
)
from inference_server.api.http.many import OUTCOMES, ManyQueries, open_queries
from inference_server.api.http.responses import (
    json_list_response,
    json_response,
    recommend_payload,
    similar_items_payload,
)
from inference_server.api.http.schemas import components, schema_documents
from inference_server.api.http.validation import BODY, NOT_UNICODE, PayloadCheck
from inference_server.api.internal_error import internal_error
from inference_server.api.many import count_queries, outcomes_of
from inference_server.api.serving_status import serving_status
from inference_server.api.wire import to_query, to_similar_query
from inference_server.api.wire_events import NOT_A_TIME, to_events, to_item_changes, to_removals
from inference_server.core.errors import InvalidRequest, RequestError
from inference_server.core.query import Query
from inference_server.events.recorder import Recorder
from inference_server.model.serving_model import ModelSlot
from inference_server.request.recommender import Recommender
from inference_server.security.callers import Caller, Right, current_caller, right_of
from inference_server.telemetry.statistics import Statistics
from tandem.v1 import recommendation_pb2 as pb

_CLIENT_GONE: Final = 499
"""The status under which the statistics count a request whose caller hung up. It is never sent."""

_PLACE: Final = re.compile(r" at \w+\.(\S+?)\.*$")
"""Where protobuf's reader of JSON says that a value is wrong: "... at RecordEventsRequest.events[0].occurred_at."."""

_CORS_METHODS: Final = ("GET", "HEAD", "POST", "PUT")
_CORS_HEADERS: Final = ("authorization", "content-encoding", TIMEOUT_HEADER, "traceparent", "tracestate", "x-api-key")
"""Those that the API reads, beside the ones that browsers may always send."""
_CORS_EXPOSED: Final = ("allow", "accept-encoding", "retry-after", "www-authenticate")

_Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]
_Result = TypeVar("_Result")
_Request = TypeVar("_Request", bound=Message)


class ApiKeys(Protocol):
    """Checks the keys of callers."""

    def check(self, presented: str | None) -> Caller:
        """Returns the caller. Raises Unauthenticated unless the key is known; None: the caller presented none."""


class _PlainRoute(APIRoute):
    """A route that OpenAPI describes, and that calls its endpoint directly with the request.

    FastAPI's own wrapper resolves dependencies, which no endpoint here has, and takes 40 of 180 microseconds.
    """

    def __init__(self, path: str, endpoint: _Endpoint, **description: Any) -> None:
        super().__init__(path, endpoint, **description)

        async def plain(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)

        self.app = plain


def create_app(
    recommender: Recommender,
    recorder: Recorder,
    models: ModelSlot,
    statistics: Statistics,
    *,
    api_keys: ApiKeys | None,
    max_body_bytes: int = 1 << 20,
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """The application. With `api_keys`, every endpoint except the two probes needs a key; a body may have at most
    `max_body_bytes`; pages of `cors_origins` ("*": all) may call it from a browser."""
    api = _Api(recommender, recorder, models, statistics, api_keys=api_keys, max_body_bytes=max_body_bytes)
    app = FastAPI(
        **openapi.ABOUT,
        # Our own endpoints serve the document: FastAPI's need no key, and its pages load scripts from other hosts.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Asking OpenTelemetry whether a tracer is installed takes a tenth of a whole request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={HTTPException: api.no_route},
    )
    app.router.route_class = _PlainRoute
    description = openapi.Description(authenticated=api_keys is not None)
    guarded = api.guarded
    post, put, get = ["POST"], ["PUT"], ["GET"]
    app.add_api_route(
        "/v1/recommend", guarded(api.recommend, right_of("Recommend")), methods=post, **description.recommend
    )
    app.add_api_route(
        "/v1/recommend/many",
        guarded(api.recommend_many, right_of("RecommendMany")),
        methods=post,
        **description.recommend_many,
    )
    app.add_api_route(
        "/v1/similar-items",
        guarded(api.similar_items, right_of("SimilarItems")),
        methods=post,
        **description.similar_items,
    )
    app.add_api_route(
        "/v1/events", guarded(api.record_events, right_of("RecordEvents")), methods=post, **description.record_events
    )
    app.add_api_route(
        "/v1/items", guarded(api.upsert_items, right_of("UpsertItems")), methods=put, **description.upsert_items
    )
    app.add_api_route(
        "/v1/items/delete", guarded(api.delete_items, right_of("DeleteItems")), methods=post, **description.delete_items
    )
    app.add_api_route(
        "/v1/status", guarded(api.status, right_of("GetServingStatus")), methods=get, **description.status
    )
    app.add_api_route("/schemas/{name}.json", guarded(api.schema), methods=get, **description.schema)
    app.add_api_route("/openapi.json", guarded(api.openapi), methods=get, **description.openapi)
    app.add_api_route("/healthz", api.healthz, methods=get, **description.healthz)
    app.add_api_route("/readyz", api.readyz, methods=get, **description.readyz)
    api.openapi_document = openapi.document(app, components(), authenticated=api_keys is not None)
    for route in app.routes:
        # Not earlier: the document would describe every such endpoint twice.
        if isinstance(route, APIRoute) and route.methods == {"GET"}:
            route.methods.add("HEAD")
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=tuple(cors_origins),
            allow_methods=_CORS_METHODS,
            allow_headers=_CORS_HEADERS,
            expose_headers=_CORS_EXPOSED,
        )
    return app


class _Api:
    """The endpoints, and the checks that they share."""

    def __init__(
        self,
        recommender: Recommender,
        recorder: Recorder,
        models: ModelSlot,
        statistics: Statistics,
        *,
        api_keys: ApiKeys | None,
        max_body_bytes: int,
    ) -> None:
        self._recommender = recommender
        self._recorder = recorder
        self._models = models
        self._statistics = statistics
        self._api_keys = api_keys
        self._max_body_bytes = max_body_bytes
        self._schemas = schema_documents()
        self._recommend_check = PayloadCheck(self._schemas["recommend-request"])
        self._recommend_many_check = PayloadCheck(open_queries(self._schemas["recommend-many-request"]))
        self._similar_items_check = PayloadCheck(self._schemas["similar-items-request"])
        self._record_events_check = PayloadCheck(self._schemas["record-events-request"])
        self._upsert_items_check = PayloadCheck(self._schemas["upsert-items-request"])
        self._delete_items_check = PayloadCheck(self._schemas["delete-items-request"])
        self.openapi_document: dict[str, Any] = {}

    async def recommend(self, request: Request) -> Response:
        """POST /v1/recommend."""
        started = time.perf_counter()
        timeout = timeout_seconds(request)
        query = to_query(
            _to_message(pb.RecommendRequest, self._recommend_check, await read_json(request, self._max_body_bytes))
        )
        parent = header(request, "traceparent") if self._recommender.traces else None
        answering = self._recommender.recommend(query, _remaining(timeout, started), traceparent=parent)
        return json_response(recommend_payload(await _while_connected(request, answering)))

    async def recommend_many(self, request: Request) -> Response:
        """POST /v1/recommend/many."""
        started = time.perf_counter()
        timeout = timeout_seconds(request)
        payload = await read_json(request, self._max_body_bytes)
        many = ManyQueries(payload, self._recommend_many_check, self._query)
        answering = outcomes_of(
            many.queries,
            self._recommender,
            _remaining(timeout, started),
            in_bulk=many.in_bulk,
            traceparent=header(request, "traceparent") if self._recommender.traces else None,
        )
        outcomes = await _while_connected(request, answering)
        count_queries(outcomes, status_name, self._statistics)
        return await json_list_response(OUTCOMES, many.entries(outcomes))

    def _query(self, payload: Any) -> Query:
        """One query of many. Raises InvalidRequest."""
        return to_query(_to_message(pb.RecommendRequest, self._recommend_check, payload))

    async def similar_items(self, request: Request) -> Response:
        """POST /v1/similar-items."""
        started = time.perf_counter()
        timeout = timeout_seconds(request)
        message = _to_message(
            pb.SimilarItemsRequest, self._similar_items_check, await read_json(request, self._max_body_bytes)
        )
        answering = self._recommender.similar_items(to_similar_query(message), _remaining(timeout, started))
        return json_response(similar_items_payload(await _while_connected(request, answering)))

    async def record_events(self, request: Request) -> Response:
        """POST /v1/events."""

        async def record(message: pb.RecordEventsRequest, remaining: float | None) -> int:
            return await self._recorder.record_events(to_events(message), remaining)

        return await self._written(request, pb.RecordEventsRequest, self._record_events_check, record)

    async def upsert_items(self, request: Request) -> Response:
        """PUT /v1/items."""

        async def change(message: pb.UpsertItemsRequest, remaining: float | None) -> int:
            return await self._recorder.change_items(to_item_changes(message), remaining)

        return await self._written(request, pb.UpsertItemsRequest, self._upsert_items_check, change)

    async def delete_items(self, request: Request) -> Response:
        """POST /v1/items/delete."""

        async def change(message: pb.DeleteItemsRequest, remaining: float | None) -> int:
            return await self._recorder.change_items(to_removals(message), remaining)

        return await self._written(request, pb.DeleteItemsRequest, self._delete_items_check, change)

    async def _written(
        self,
        request: Request,
        kind: type[_Request],
        check: PayloadCheck,
        write: Callable[[_Request, float | None], Awaitable[int]],
    ) -> Response:
        """Executes a call that writes, and returns its answer. Raises RequestError, HttpRefusal, ClientGone."""
        started = time.perf_counter()
        timeout = timeout_seconds(request)
        message = _parsed(kind, check, await read_json(request, self._max_body_bytes))
        writing = write(message, _remaining(timeout, started))
        return json_response({"num_accepted": await _while_connected(request, writing)})

    async def status(self, request: Request) -> Response:  # noqa: ARG002 - every endpoint takes it
        """GET /v1/status."""
        message = serving_status(self._statistics, self._models)
        return json_response(
            MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        )

    async def schema(self, request: Request) -> Response:
        """GET /schemas/{name}.json."""
        name = request.path_params["name"]
        if name not in self._schemas:
            raise HttpRefusal(404, f"there is no schema of this name; there are {', '.join(self._schemas)}")
        return json_response(self._schemas[name])

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        """GET /openapi.json."""
        return json_response(self.openapi_document)

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002
        """GET /healthz: this process is alive."""
        return json_response({"status": "ALIVE"})

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002
        """GET /readyz: a model is served."""
        if self._models.current is None:
            return refusal_response(503, "no model has been loaded yet")
        return json_response({"status": "SERVING"})

    async def no_route(self, request: Request, error: Exception) -> Response:
        """The answer for a path or a method that does not exist."""
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            # Starlette joins a set, whose order changes from process to process.
            allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            response = refusal_response(405, f"{request.method} is not allowed here", headers={"allow": allowed})
        else:
            response = refusal_response(404, "there is nothing at this path")
        self._statistics.http_requests_by_status[str(response.status_code)] += 1
        return response

    def guarded(self, endpoint: _Endpoint, right: Right | None = None) -> _Endpoint:
        """The endpoint with its key check; every outcome, exceptions included, becomes a response and is counted.

        `right` is what the key must allow; None: any key will do.
        """

        async def answered(request: Request) -> Response:
            started = time.perf_counter()
            response = await self._outcome(endpoint, right, request)
            self._statistics.http_requests_by_status[str(response.status_code)] += 1
            self._statistics.http_request_seconds.observe(time.perf_counter() - started)
            return response

        return answered

    async def _outcome(self, endpoint: _Endpoint, right: Right | None, request: Request) -> Response:
        try:
            if self._api_keys is not None:
                caller = self._api_keys.check(_presented_key(request))
                if right is not None:
                    caller.require(right)
                current_caller.set(caller)
            return await endpoint(request)
        except RequestError as error:
            return error_response(error)
        except HttpRefusal as refusal:
            return refusal_response(refusal.http_status, str(refusal), headers=refusal.headers)
        except ClientGone:
            return Response(status_code=_CLIENT_GONE)
        except asyncio.CancelledError:
            # The server stops and its grace period is over. The caller is still connected, and gets an answer.
            return refusal_response(503, "the server is stopping")
        except Exception:  # a bug of ours: the log gets the details, the caller only an id
            return internal_error_response(internal_error(path=request.url.path))


def _presented_key(request: Request) -> str | None:
    """The key of `authorization: Bearer KEY`, or otherwise of `x-api-key: KEY`; None if the request has neither."""
    scheme, _, key = (header(request, "authorization") or "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return header(request, "x-api-key")


def _to_message(kind: type[_Request], check: PayloadCheck, payload: Any) -> _Request:
    """Converts the payload to its wire message. Raises InvalidRequest."""
    try:
        check.check(payload)
        return kind(**payload)
    except UnicodeEncodeError:
        raise InvalidRequest(BODY, NOT_UNICODE) from None
    except OverflowError:
        raise InvalidRequest(BODY, "has a number that is too large") from None


def _parsed(kind: type[_Request], check: PayloadCheck, payload: Any) -> _Request:
    """As `_to_message`, for messages whose JSON differs from their constructors' arguments: times, values of any type.

    Raises InvalidRequest.
    """
    try:
        check.check(payload)
        return ParseDict(payload, kind())
    except UnicodeEncodeError:
        raise InvalidRequest(BODY, NOT_UNICODE) from None
    except OverflowError:
        raise InvalidRequest(BODY, "has a number that is too large") from None
    except ParseError as error:
        # The schema has accepted it: what is left are times that an offset moves out of the years that there are.
        place = _PLACE.search(str(error))
        raise InvalidRequest(BODY if place is None else place[1], NOT_A_TIME) from None


def _remaining(timeout: float | None, started: float) -> float | None:
    """Seconds left of the caller's deadline after reading the request."""
    return None if timeout is None else timeout - (time.perf_counter() - started)


async def _while_connected(request: Request, work: Awaitable[_Result]) -> _Result:
    """The result of `work`. Cancels it when the caller hangs up, and then raises ClientGone."""
    working = asyncio.current_task()
    assert working is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        working.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and working.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watching.cancel()

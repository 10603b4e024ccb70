"""tandem.v1.RecommendationService: converts wire messages and counts calls, but makes no decisions."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc

from inference_server.api.grpc.bulk import recommend_batch
from inference_server.api.grpc.decoding import Decoder
from inference_server.api.grpc.many import recommend_many
from inference_server.api.grpc.metadata import traceparent
from inference_server.api.grpc.status_of_errors import STATUS_OF, abort
from inference_server.api.internal_error import internal_error
from inference_server.api.serving_status import serving_status
from inference_server.api.wire import to_query, to_response, to_similar_query, to_similar_response
from inference_server.api.wire_events import to_events, to_item_changes, to_removals
from inference_server.core.errors import RequestError
from inference_server.events.recorder import Recorder
from inference_server.model.serving_model import ModelSlot
from inference_server.request.recommender import Recommender
from inference_server.telemetry.histogram import Histogram
from inference_server.telemetry.statistics import Statistics
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

_OK: Final = grpc.StatusCode.OK.name
_CANCELLED: Final = grpc.StatusCode.CANCELLED.name
_INTERNAL: Final = grpc.StatusCode.INTERNAL.name

# grpc.aio types its contexts by request and response, which make no difference here.
_Response = TypeVar("_Response")
_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class _Counts:
    """The counters of one kind of call."""

    by_code: Counter[str]
    seconds: Histogram


class RecommendationServicer(pb_grpc.RecommendationServiceServicer):
    """Serves the public API."""

    def __init__(self, recommender: Recommender, recorder: Recorder, models: ModelSlot, statistics: Statistics) -> None:
        self._recommender = recommender
        self._recorder = recorder
        self._traces = recommender.traces
        self._models = models
        self._statistics = statistics
        self._decoder = Decoder(statistics)
        self._reads = _Counts(statistics.requests_by_code, statistics.request_seconds)
        self._many = _Counts(statistics.many_calls_by_code, statistics.many_call_seconds)
        self._writes = _Counts(statistics.write_calls_by_code, statistics.write_call_seconds)

    async def Recommend(  # noqa: N802 - named by the service definition
        self, request: pb.RecommendRequest, context: _Context
    ) -> pb.RecommendResponse:
        """Answers one query; every outcome is counted by its status."""

        async def answer() -> pb.RecommendResponse:
            parent = traceparent(context.invocation_metadata() or ()) if self._traces else None
            query = to_query(request)
            return to_response(await self._recommender.recommend(query, context.time_remaining(), traceparent=parent))

        return await self._counted(answer(), context, self._reads, user_id=request.user_id)

    async def RecommendMany(  # noqa: N802 - named by the service definition
        self, request: pb.RecommendManyRequest, context: _Context
    ) -> pb.RecommendManyResponse:
        """Answers several queries; calls and their queries are counted apart from single calls."""
        parent = traceparent(context.invocation_metadata() or ()) if self._traces else None
        answering = recommend_many(
            request, self._recommender, self._statistics, context.time_remaining(), traceparent=parent
        )
        return await self._counted(answering, context, self._many)

    async def SimilarItems(  # noqa: N802 - named by the service definition
        self, request: pb.SimilarItemsRequest, context: _Context
    ) -> pb.SimilarItemsResponse:
        """Finds items near the given items; counted as a Recommend call."""

        async def answer() -> pb.SimilarItemsResponse:
            query = to_similar_query(request)
            return to_similar_response(await self._recommender.similar_items(query, context.time_remaining()))

        return await self._counted(answer(), context, self._reads)

    async def RecommendBatch(  # type: ignore[override]  # noqa: N802 - see below; named by the service definition
        self,
        request_iterator: AsyncIterator[bytes],
        context: _Context,  # noqa: ARG002 - entries carry their own errors
    ) -> AsyncIterator[pb.RecommendBatchResponse]:
        """Answers a stream of queries. Takes them as bytes, so that one that cannot be decoded does not end it."""
        answering = recommend_batch(request_iterator, self._recommender, self._decoder)
        async with aclosing(answering) as responses:
            async for response in responses:
                yield response

    async def RecordEvents(  # noqa: N802 - named by the service definition
        self, request: pb.RecordEventsRequest, context: _Context
    ) -> pb.RecordEventsResponse:
        """Records events; writes are counted separately from the calls that answer."""

        async def record() -> pb.RecordEventsResponse:
            count = await self._recorder.record_events(to_events(request), context.time_remaining())
            return pb.RecordEventsResponse(num_accepted=count)

        return await self._counted(record(), context, self._writes)

    async def UpsertItems(  # noqa: N802 - named by the service definition
        self, request: pb.UpsertItemsRequest, context: _Context
    ) -> pb.UpsertItemsResponse:
        """Records new and changed items; counted as a write."""

        async def record() -> pb.UpsertItemsResponse:
            count = await self._recorder.change_items(to_item_changes(request), context.time_remaining())
            return pb.UpsertItemsResponse(num_accepted=count)

        return await self._counted(record(), context, self._writes)

    async def DeleteItems(  # noqa: N802 - named by the service definition
        self, request: pb.DeleteItemsRequest, context: _Context
    ) -> pb.DeleteItemsResponse:
        """Records removed items; counted as a write."""

        async def record() -> pb.DeleteItemsResponse:
            count = await self._recorder.change_items(to_removals(request), context.time_remaining())
            return pb.DeleteItemsResponse(num_accepted=count)

        return await self._counted(record(), context, self._writes)

    async def _counted(
        self, answering: Coroutine[Any, Any, _Response], context: _Context, counts: _Counts, *, user_id: str = ""
    ) -> _Response:
        started = time.perf_counter()
        code = _INTERNAL
        try:
            response = await answering
            code = _OK
            return response
        except RequestError as error:
            code = STATUS_OF[type(error)].name
            await abort(context, error)
        except asyncio.CancelledError:
            code = _CANCELLED
            raise
        except Exception:  # a bug of ours: the log gets the details, the caller only an id
            await context.abort(grpc.StatusCode.INTERNAL, internal_error(user_id=user_id).message)
        finally:
            counts.by_code[code] += 1
            counts.seconds.observe(time.perf_counter() - started)

    async def GetServingStatus(  # noqa: N802 - named by the service definition
        self,
        request: pb.GetServingStatusRequest,  # noqa: ARG002 - it has no fields
        context: _Context,  # noqa: ARG002
    ) -> pb.GetServingStatusResponse:
        """Reports what is served, since when, and what failed."""
        return serving_status(self._statistics, self._models)

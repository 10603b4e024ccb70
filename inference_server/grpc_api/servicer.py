"""tandem.v1.RecommendationService: wire messages in, wire messages out, nothing decided."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, Final, TypeVar

import grpc

from inference_server.errors import RequestError
from inference_server.grpc_api.bulk import recommend_batch
from inference_server.grpc_api.metadata import traceparent
from inference_server.grpc_api.status import STATUS_OF, abort
from inference_server.logs import log_failed
from inference_server.recommend import Recommender
from inference_server.security.api_keys import current_caller
from inference_server.serving_model import ModelSlot
from inference_server.statistics import Statistics
from inference_server.status import serving_status
from inference_server.wire import to_query, to_response, to_similar_query, to_similar_response
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

_OK: Final = grpc.StatusCode.OK.name
_CANCELLED: Final = grpc.StatusCode.CANCELLED.name
_INTERNAL: Final = grpc.StatusCode.INTERNAL.name

# grpc.aio types its contexts by request and response; here the two make no difference.
_Response = TypeVar("_Response")
_Context = grpc.aio.ServicerContext[Any, Any]


class RecommendationServicer(pb_grpc.RecommendationServiceServicer):
    """Serves the public API."""

    def __init__(self, recommender: Recommender, models: ModelSlot, statistics: Statistics) -> None:
        self._recommender = recommender
        self._traces = recommender.traces
        self._models = models
        self._statistics = statistics

    async def Recommend(  # noqa: N802 - named by the service definition
        self, request: pb.RecommendRequest, context: _Context
    ) -> pb.RecommendResponse:
        """Answers one query; every outcome is counted by its status."""

        async def answer() -> pb.RecommendResponse:
            parent = traceparent(context.invocation_metadata() or ()) if self._traces else None
            query = to_query(request)
            return to_response(await self._recommender.recommend(query, context.time_remaining(), traceparent=parent))

        return await self._counted(answer(), context, request.user_id)

    async def SimilarItems(  # noqa: N802 - named by the service definition
        self, request: pb.SimilarItemsRequest, context: _Context
    ) -> pb.SimilarItemsResponse:
        """Finds items near others; counted as Recommend calls are."""

        async def answer() -> pb.SimilarItemsResponse:
            query = to_similar_query(request)
            return to_similar_response(await self._recommender.similar_items(query, context.time_remaining()))

        return await self._counted(answer(), context)

    async def RecommendBatch(  # noqa: N802 - named by the service definition
        self,
        request_iterator: AsyncIterator[pb.RecommendBatchRequest],
        context: _Context,  # noqa: ARG002 - entries carry their own errors
    ) -> AsyncIterator[pb.RecommendBatchResponse]:
        """Answers a stream of queries."""
        async with aclosing(recommend_batch(request_iterator, self._recommender)) as responses:
            async for response in responses:
                yield response

    async def RecordEvents(  # noqa: N802 - named by the service definition
        self,
        request: pb.RecordEventsRequest,  # noqa: ARG002
        context: _Context,
    ) -> pb.RecordEventsResponse:
        """Not served yet."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "RecordEvents is not served yet")

    async def UpsertItems(  # noqa: N802 - named by the service definition
        self,
        request: pb.UpsertItemsRequest,  # noqa: ARG002
        context: _Context,
    ) -> pb.UpsertItemsResponse:
        """Not served yet."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "UpsertItems is not served yet")

    async def DeleteItems(  # noqa: N802 - named by the service definition
        self,
        request: pb.DeleteItemsRequest,  # noqa: ARG002
        context: _Context,
    ) -> pb.DeleteItemsResponse:
        """Not served yet."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "DeleteItems is not served yet")

    async def _counted(
        self, answering: Coroutine[Any, Any, _Response], context: _Context, user_id: str = ""
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
        except Exception:  # a bug of ours: the log gets all of it, the caller only a name to ask for it by
            request_id = os.urandom(16).hex()
            log_failed(request_id=request_id, user_id=user_id, caller=current_caller.get())
            await context.abort(grpc.StatusCode.INTERNAL, f"internal error, request_id {request_id}")
        finally:
            self._statistics.requests_by_code[code] += 1
            self._statistics.request_seconds.observe(time.perf_counter() - started)

    async def GetServingStatus(  # noqa: N802 - named by the service definition
        self,
        request: pb.GetServingStatusRequest,  # noqa: ARG002 - it has no fields
        context: _Context,  # noqa: ARG002
    ) -> pb.GetServingStatusResponse:
        """Says what is served and how that goes."""
        return serving_status(self._statistics, self._models)

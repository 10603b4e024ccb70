"""A real gRPC server that follows a test's script, attempt by attempt, and records its requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name

_Context = grpc.aio.ServicerContext[Any, Any]
Step = Callable[[_Context, Any], Awaitable[Any]]
"""The reply to an attempt: called with the attempt's context and the response to fill."""


def answers(**fields: Any) -> Step:
    """A response with the given fields."""

    async def step(context: _Context, response: Any) -> Any:
        response.MergeFrom(type(response)(**fields))
        return response

    return step


def fails(
    code: grpc.StatusCode, message: str = "as scripted", *, retry_after_seconds: float | None = None, field: str = ""
) -> Step:
    """A status, with the details that the inference server sends with it."""

    async def step(context: _Context, response: Any) -> Any:
        status = status_pb2.Status(code=code.value[0], message=message)
        if retry_after_seconds is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(retry_after_seconds * 1e9))
            status.details.add().Pack(retry)
        if field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=field, description="is wrong")
            status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        rich = rpc_status.to_status(status)
        await context.abort(rich.code, rich.details, trailing_metadata=rich.trailing_metadata)

    return step


def hangs() -> Step:
    """No response, until the caller cancels."""

    async def step(context: _Context, response: Any) -> Any:
        await asyncio.Event().wait()

    return step


def answers_late(seconds: float) -> Step:
    """An empty response after a delay."""

    async def step(context: _Context, response: Any) -> Any:
        await asyncio.sleep(seconds)
        return response

    return step


@dataclass
class Attempt:
    """A call as the server received it."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    time_remaining_seconds: float
    arrived_at_seconds: float
    cancelled: bool = False


@dataclass
class ScriptedServer(pb_grpc.RecommendationServiceServicer):
    """Attempt n gets step n of the script; attempts beyond its end get the last step."""

    script: Sequence[Step]
    port: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    health: health.aio.HealthServicer = field(default_factory=health.aio.HealthServicer)

    @property
    def address(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    async def set_serving(self) -> None:
        await self.health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)

    async def Recommend(self, request: pb.RecommendRequest, context: _Context) -> pb.RecommendResponse:  # noqa: N802
        return await self._next("Recommend", request, context, pb.RecommendResponse())

    async def SimilarItems(self, request: Any, context: _Context) -> pb.SimilarItemsResponse:  # noqa: N802
        return await self._next("SimilarItems", request, context, pb.SimilarItemsResponse())

    async def RecordEvents(self, request: Any, context: _Context) -> pb.RecordEventsResponse:  # noqa: N802
        return await self._next("RecordEvents", request, context, pb.RecordEventsResponse())

    async def UpsertItems(self, request: Any, context: _Context) -> pb.UpsertItemsResponse:  # noqa: N802
        return await self._next("UpsertItems", request, context, pb.UpsertItemsResponse())

    async def DeleteItems(self, request: Any, context: _Context) -> pb.DeleteItemsResponse:  # noqa: N802
        return await self._next("DeleteItems", request, context, pb.DeleteItemsResponse())

    async def GetServingStatus(self, request: Any, context: _Context) -> pb.GetServingStatusResponse:  # noqa: N802
        return await self._next("GetServingStatus", request, context, pb.GetServingStatusResponse())

    async def _next(self, method: str, request: Any, context: _Context, response: Any) -> Any:
        attempt = Attempt(
            method=method,
            request=request,
            metadata=dict(context.invocation_metadata() or ()),  # type: ignore[arg-type]
            time_remaining_seconds=context.time_remaining(),
            arrived_at_seconds=time.monotonic(),
        )
        self.attempts.append(attempt)
        step = self.script[min(len(self.attempts), len(self.script)) - 1]
        try:
            return await step(context, response)
        except asyncio.CancelledError:
            attempt.cancelled = True
            raise


@asynccontextmanager
async def scripted(
    *script: Step, servicer: ScriptedServer | None = None, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[ScriptedServer]:
    """Runs a server with a script in this event loop, during the block."""
    servicer = servicer or ScriptedServer(script)
    server = grpc.aio.server()
    pb_grpc.add_RecommendationServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer.health, server)
    if credentials is None:
        servicer.port = server.add_insecure_port("127.0.0.1:0")
    else:
        servicer.port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(0)

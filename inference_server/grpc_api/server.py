"""The gRPC server: services, health, and how it stops."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from inference_server.errors import PortUnavailable
from inference_server.grpc_api.servicer import RecommendationServicer
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name

_MAX_REQUEST_BYTES: Final = 1 << 20
"""Largest message taken: 2,000 ids of the greatest length and 200 categories are half of it."""


class _Health(health.aio.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Health whose watchers end with the server: left to themselves, they would use up the whole grace period."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    async def end(self) -> None:
        """NOT_SERVING for good."""
        await self.enter_graceful_shutdown()
        self._ended.set()

    async def Watch(  # noqa: N802 - named by the service definition
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Streams the status whenever it changes; NOT_SERVING is the last one."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        ending = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            ending.cancel()
            await asyncio.gather(watching, ending, return_exceptions=True)
        await context.write(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING))


class GrpcServer:
    """The gRPC server of one worker. Health follows the model: NOT_SERVING until `set_serving`."""

    def __init__(self, servicer: RecommendationServicer, *, host: str, port: int, reflection_enabled: bool) -> None:
        """Binds the port; 0 takes any free one. Raises PortUnavailable."""
        self._server = grpc.aio.server(
            options=(
                # The supervisor holds the port, so that nobody but its workers shares it (see `ports`).
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
                ("grpc.enable_channelz", 1),
            )
        )
        pb_grpc.add_RecommendationServiceServicer_to_server(servicer, self._server)
        self._health = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        channelz.add_channelz_servicer(self._server)
        if reflection_enabled:
            served = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME, "grpc.channelz.v1.Channelz")
            reflection.enable_server_reflection(served, self._server)
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise PortUnavailable(f"cannot listen on {host}:{port} for gRPC: {error}") from error

    async def start(self) -> None:
        """Begins to answer, NOT_SERVING."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()

    async def set_serving(self) -> None:
        """Tells health watchers that there is a model."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, *, grace_seconds: float) -> None:
        """NOT_SERVING, no new calls, those in flight finished or `grace_seconds` over, the rest cancelled, closed."""
        await self._health.end()
        await self._server.stop(grace_seconds)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE_NAME):
            await self._health.set(service, status)

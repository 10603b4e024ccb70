"""grpc.health.v1.Health: whether a model is served. It needs no key."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Health whose watchers end when the server stops: otherwise they would use up the whole grace period."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    async def end(self) -> None:
        """Sets NOT_SERVING permanently, and ends the watchers."""
        await self.enter_graceful_shutdown()
        self._ended.set()

    async def List(  # noqa: N802 - named by the service definition
        self,
        request: health_pb2.HealthListRequest,  # noqa: ARG002 - it has no fields
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> health_pb2.HealthListResponse:
        """The status of every service. The package itself leaves it out."""
        statuses = {
            service: health_pb2.HealthCheckResponse(status=status) for service, status in self._server_status.items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)

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

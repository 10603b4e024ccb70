"""grpc.channelz.v1.Channelz: the connections of this worker, for operators."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_channelz.v1 import channelz, channelz_pb2

SERVICE_NAME = "grpc.channelz.v1.Channelz"


class Channelz(channelz.aio.ChannelzServicer):  # type: ignore[misc]  # the package has no types
    """The package's servicer, less one mistake: sockets of a server that does not exist are INTERNAL there."""

    @staticmethod
    async def GetServerSockets(  # noqa: N802 - named by the service definition
        request: channelz_pb2.GetServerSocketsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> channelz_pb2.GetServerSocketsResponse | None:
        """The open connections of a server; NOT_FOUND if there is no such server."""
        server = channelz_pb2.GetServerRequest(server_id=request.server_id)
        if await channelz.aio.ChannelzServicer.GetServer(server, context) is None:
            return None
        return await channelz.aio.ChannelzServicer.GetServerSockets(request, context)

"""A gRPC server that survives calls of methods that it does not have.

grpcio decodes the name of an unregistered method in its accepting loop. Bytes that are not UTF-8 end the loop, and with
it the whole server, whether or not the caller has a key. Registered methods are not affected: gRPC's core has compared
their names. So calls of all other methods are accepted here, and refused without their name.

It uses parts of grpcio that are not public, for lack of any other way to catch the error. A test sends such a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio._server import Server

_UNNAMED = ""


def robust_server(
    *, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]]
) -> grpc.aio.Server:
    """`grpc.aio.server`, where a call of an unknown method ends in UNIMPLEMENTED whatever its name is.

    An interceptor sees such a call under an empty name, and may refuse it in other words.
    """
    server: Any = Server.__new__(Server)  # its own constructor makes the loop that calls would end
    server._loop = cygrpc.get_working_loop()
    server._server = _Calls(server._loop, None, (), tuple(interceptors), tuple(options), None)
    server._server.interceptors = tuple(interceptors)
    return cast("grpc.aio.Server", server)


class _Calls(cygrpc.AioServer):  # type: ignore[misc]
    """The accepting loop."""

    interceptors: tuple[grpc.aio.ServerInterceptor, ...] = ()

    def _make_request_call_future(self, method_bytes: bytes | None) -> Any:
        if method_bytes is not None:
            return super()._make_request_call_future(method_bytes)
        # Never done before the server stops, so that grpcio's loop gets no call to decode.
        return asyncio.ensure_future(self._refuse_unknown_methods())

    async def _refuse_unknown_methods(self) -> None:
        loop = asyncio.get_running_loop()
        nothing = cygrpc._MethodResolver([], {})
        running = set()
        while True:
            call = await self._request_call()
            answer = cygrpc._handle_rpc(_UNNAMED, nothing, self.interceptors, call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answer, call, loop, _UNNAMED))
            running.add(task)  # the loop itself holds a task only weakly
            task.add_done_callback(running.discard)

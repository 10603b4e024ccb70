"""A gRPC server that takes many waiting calls at once, and survives calls of methods that it does not have.

grpcio's accepting loop takes one call of a method in each turn of the event loop, and looks at every registered method
again for each. On a machine that is short of processor time a turn takes long, and calls wait inside gRPC, where
nothing knows of them: their deadlines pass, and no permit refuses them (docs/decisions/0070-accepting-calls.md). So
methods that are called often have an accepting loop of their own, with many requests for a call at once.

The same loop decodes the name of an unregistered method. Bytes that are not UTF-8 end the loop, and with it the whole
server, whether or not the caller has a key. Registered methods are not affected: gRPC's core has compared their names.
So calls of all other methods are accepted here too, and refused without their name.

It uses parts of grpcio that are not public, for lack of any other way. Tests send calls of both kinds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio._server import Server

RPC_TASK: Final = "rpc_task"
"""Name of the task from a call's arrival to its last byte, as in grpc.aio."""
_UNNAMED: Final = ""
_CALLS_AT_ONCE: Final = 64
"""Calls of a hot method that gRPC may hand over in one turn of the event loop. Each takes 1 kB while it waits."""


def robust_server(
    *, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]], hot: Collection[str]
) -> grpc.aio.Server:
    """`grpc.aio.server`, where a call of an unknown method ends in UNIMPLEMENTED whatever its name is.

    An interceptor sees such a call under an empty name, and may refuse it in other words. `hot` names the registered
    methods, "package.Service/Method", that are called often.
    """
    server: Any = Server.__new__(Server)  # its own constructor makes the loop that calls would end
    server._loop = cygrpc.get_working_loop()
    server._server = _Calls(server._loop, None, (), tuple(interceptors), tuple(options), None)
    server._server.interceptors = tuple(interceptors)
    server._server.hot = frozenset(f"/{method}".encode() for method in hot)
    return cast("grpc.aio.Server", server)


class _Calls(cygrpc.AioServer):  # type: ignore[misc]
    """The accepting loops."""

    interceptors: tuple[grpc.aio.ServerInterceptor, ...] = ()
    hot: frozenset[bytes] = frozenset()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._handlers: dict[str, Any] = {}
        self._running: set[asyncio.Task[None]] = set()

    def add_registered_method_handlers(self, handlers: Mapping[str, Any]) -> None:
        super().add_registered_method_handlers(handlers)
        self._handlers.update(handlers)

    def _make_request_call_future(self, method_bytes: bytes | None) -> Any:
        if method_bytes is None:
            # Never done before the server stops, so that grpcio's loop gets no call to decode.
            return asyncio.ensure_future(self._accept(None))
        if method_bytes in self.hot:
            return asyncio.gather(*(self._accept(method_bytes) for _ in range(_CALLS_AT_ONCE)))
        return super()._make_request_call_future(method_bytes)

    async def _accept(self, method: bytes | None) -> None:
        """Accepts calls of a registered method, or of all methods that are not registered, until the server stops."""
        loop = asyncio.get_running_loop()
        name = _UNNAMED if method is None else method.decode()
        resolver = cygrpc._MethodResolver([], {} if method is None else self._handlers)
        while True:
            try:
                call = await (self._request_call() if method is None else self._request_registered_call(method))
            except cygrpc._RequestCallError:
                if self.is_running():
                    continue
                raise
            answer = cygrpc._handle_rpc(name, resolver, self.interceptors, call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answer, call, loop, name), name=RPC_TASK)
            self._running.add(task)  # the loop itself holds a task only weakly
            task.add_done_callback(self._running.discard)

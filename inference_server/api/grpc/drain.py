"""How a gRPC server stops without losing a call.

gRPC's own graceful stop answers the calls that Python has begun, and ends all others with CANCELLED: calls that wait
for Python, and calls that arrive between its first GOAWAY and the moment when the client has read it. No client repeats
a call that ended so. Its other way to send GOAWAY, `grpc.max_connection_age_ms`, loses nothing, but is set when the
server is made and lasts for minutes. So the server's sockets are taken out of gRPC's hands:

1. The listening sockets are closed. New connections go to the other workers of the port.
2. The connections are frozen: gRPC reads nothing more, and answers what it has read.
3. gRPC begins to stop. Its first GOAWAY makes clients open other connections for further calls.
4. gRPC gets one end of a socket pair in place of each connection, and ends. Its last GOAWAY names the last call that it
   has read. Calls that were never read have higher numbers, and every client of gRPC sends them elsewhere by itself.
5. The GOAWAY is passed on, then FIN. gRPC would close at once, and the kernel would answer what clients still send with
   RST; a client that meets RST gives its calls up with UNAVAILABLE.

Measured in docs/decisions/0063-drain.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc

from inference_server.api.grpc.accepting import RPC_TASK
from inference_server.api.grpc.connections import Connections, leave_port

_HANDSHAKE_SECONDS: Final = 0.05
"""Time in which connections that were just accepted become usable."""
_CHECK_SECONDS: Final = 0.002
_CALM_CHECKS: Final = 6
_CALM_SECONDS: Final = 0.1
"""Consecutive checks that find no call, and the time that they span, before no call is believed to be on its way
to Python. The states of gRPC's threads would tell sooner. But reading them leaves entries of /proc behind, which the
kernel drops when the worker ends: on a busy machine the fork server was then seconds late to learn its exit status.
"""
_FROZEN_SECONDS: Final = 0.5
"""Longest time for which callers wait in the kernel. Then gRPC may read again for as long, and callers are answered."""
_CALLERS_SECONDS: Final = 2.0
"""How long the drain waits for callers: for the rest of a message, or until one reads its answer. Then the calls of a
caller that does neither are ended; to wait on would cost all other callers theirs when the time is over."""
_GOAWAY_SECONDS: Final = 0.02
"""Time between the two GOAWAYs. A client that gets both at once tries the calls that the second one refuses on the same
connection again, in a loop that holds a thread of its gRPC; with two such connections it hung for a second."""
_UNTIL_ALL_HAVE_ENDED_SECONDS: Final = 3600.0
"""Grace period of the first stop, which the second stop ends. If it ran out just while the second one frees the server,
grpcio would end the calls of a server that is no more, and the process would die."""
_GOODBYE_SECONDS: Final = 1.0
"""Time in which clients may close their connections."""
_HANDLER_TASK: Final = "HandleExceptions[{}]"
"""Name of grpc.aio's task around a handler."""


class _Rest:
    """Which calls the drain still waits for."""

    def __init__(self, streams: Iterable[str], num_answering: Callable[[], int], *, forgets_callers_at: float) -> None:
        self._stream_handlers = frozenset(_HANDLER_TASK.format(method) for method in streams)
        self._num_answering = num_answering
        self._forgets_callers_at = forgets_callers_at
        self._waiting: frozenset[asyncio.Task[Any]] = frozenset()

    def streams(self) -> int:
        """The number of streams in progress."""
        return sum(task.get_name() in self._stream_handlers for task in asyncio.all_tasks())

    def is_disturbed(self) -> bool:
        """Whether a unary call is in progress for which the drain waits, or one began or ended since the last look."""
        tasks = [(task, task.get_name()) for task in asyncio.all_tasks()]
        num_streams = sum(name in self._stream_handlers for _, name in tasks)
        calls = frozenset(task for task, name in tasks if name == RPC_TASK)
        before, self._waiting = self._waiting, calls
        if self._num_answering() or (len(calls) > num_streams and time.monotonic() < self._forgets_callers_at):
            return True
        return calls != before


async def drain(
    server: grpc.aio.Server,
    port: int,
    *,
    grace_seconds: float,
    streams: Iterable[str],
    num_answering: Callable[[], int],
) -> None:
    """Stops `server`, which listens on `port`. Waits up to `grace_seconds` for calls in progress, and ends the rest.

    Unary calls are answered, or were never read; but those of a caller that keeps the server waiting, for a message or
    with its answer, end. `streams` are the methods, as paths, whose calls may last as long as they please: while one is
    in progress and there is time, all calls are answered as usual. `num_answering` is the number of unary calls for
    which an answer is being made.
    """
    rest = _Rest(streams, num_answering, forgets_callers_at=time.monotonic() + min(_CALLERS_SECONDS, grace_seconds))
    give_up_at = time.monotonic() + grace_seconds
    leave_port(port)
    connections = Connections(port)
    connections.freeze()
    if len(connections):
        connections.thaw()
        await asyncio.sleep(_HANDSHAKE_SECONDS)
    try:
        is_calm = await _come_to_rest(connections, give_up_at, rest)
        stopping = asyncio.create_task(server.stop(_UNTIL_ALL_HAVE_ENDED_SECONDS))
        if len(connections):
            await asyncio.sleep(_GOAWAY_SECONDS)
        if is_calm:
            connections.take_over()
        await server.stop(None)
        await stopping
        await connections.say_goodbye(patience_seconds=_GOODBYE_SECONDS)
    finally:
        connections.close()


async def _come_to_rest(connections: Connections, give_up_at: float, rest: _Rest) -> bool:
    """Freezes the connections when no stream is in progress, and waits for the other calls. Returns False, with the
    connections as they were, if calls are still in progress when the time is over."""
    while True:
        if rest.streams() and time.monotonic() < give_up_at:
            await asyncio.sleep(_CHECK_SECONDS)
            continue
        thaw_at = time.monotonic() + _FROZEN_SECONDS
        if await _freeze(connections, thaw_at, rest):
            return True
        connections.thaw()
        if time.monotonic() >= give_up_at:
            return False
        await asyncio.sleep(min(_FROZEN_SECONDS, give_up_at - time.monotonic()))


async def _freeze(connections: Connections, thaw_at: float, rest: _Rest) -> bool:
    """Freezes the connections and waits until all that gRPC has read is answered. Returns False at `thaw_at`."""
    connections.freeze()
    num_calm = num_unread_bytes = 0
    calm_since = time.monotonic()
    while len(connections) and time.monotonic() < thaw_at:
        await asyncio.sleep(_CHECK_SECONDS)
        connections.freeze()
        before, num_unread_bytes = num_unread_bytes, connections.num_unread_bytes
        if rest.is_disturbed() or num_unread_bytes < before:
            num_calm, calm_since = 0, time.monotonic()
            continue
        num_calm += 1
        if num_calm >= _CALM_CHECKS and time.monotonic() - calm_since >= _CALM_SECONDS:
            return True
    return not len(connections)

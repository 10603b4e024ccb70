"""Connections from their acceptance to the end of their TLS handshake.

An event loop's own TLS listener tells nobody of a connection before its handshake has ended, so that connections which
say nothing would be without limit.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import Callable
from typing import Final

from inference_server.api.http.connections import Connection, Connections
from inference_server.api.http.limits import Limit

_RECEIVE_BUFFER_BYTES: Final = 32 << 10
"""For TLS, uvloop keeps two buffers for as long as a connection lasts, each as large as the largest read, up to 256 kB;
200 connections took 145 MB. The kernel doubles this size."""
_NO_DESCRIPTOR_SECONDS: Final = 0.1
"""Pause after a connection that could not be accepted: the process may have no file descriptor left."""


class TlsListener:
    """Accepts the connections of a port that speaks TLS."""

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        make_protocol: Callable[[Connection], asyncio.Protocol],
        connections: Connections,
    ) -> None:
        """`make_protocol` makes what speaks HTTP after the handshake, and takes the place of the handshake that it is
        given."""
        self._listening = listening
        self._context = context
        self._make_protocol = make_protocol
        self._connections = connections
        self._handshakes: set[asyncio.Task[None]] = set()

    @property
    def is_shaking_hands(self) -> bool:
        """Whether a connection has been accepted whose handshake has not ended."""
        return bool(self._handshakes)

    async def run(self) -> None:
        """Accepts connections until it is cancelled."""
        loop = asyncio.get_running_loop()
        self._listening.setblocking(False)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        while True:
            try:
                accepted, address = await loop.sock_accept(self._listening)
            except OSError:
                await asyncio.sleep(_NO_DESCRIPTOR_SECONDS)
                continue
            handshake = _Handshake(accepted, address[0], self._connections)
            task = handshake.start(self._context, self._make_protocol)
            if task is not None:
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)


class _Handshake:
    """One connection that does not speak HTTP yet."""

    def __init__(self, accepted: socket.socket, address: str, connections: Connections) -> None:
        self.address = address
        self.deadline = math.inf
        self.held_bytes = 0
        self._socket = accepted
        self._connections = connections
        self._task: asyncio.Task[None] | None = None

    def start(
        self, context: ssl.SSLContext, make_protocol: Callable[[Connection], asyncio.Protocol]
    ) -> asyncio.Task[None] | None:
        """Begins the handshake, if there is room (else None)."""
        limit = self._connections.admit(self)
        if limit is not None:
            # Whoever waits for a handshake cannot read an answer.
            self.give_way(limit)
            return None
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + self._connections.limits.handshake_seconds
        self._task = loop.create_task(self._shake_hands(loop, context, make_protocol))
        return self._task

    def expire(self) -> None:
        """Ends a handshake that takes too long."""
        self.give_way(Limit.HANDSHAKE_SECONDS)

    def give_way(self, limit: Limit) -> None:
        """Closes the connection."""
        self._connections.refusals.count(limit, self.address)
        self.abort()

    def abort(self) -> None:
        """Closes the connection without a word."""
        self._connections.remove(self)
        if self._task is None:
            self._socket.close()
        else:
            self._task.cancel()

    async def _shake_hands(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        make_protocol: Callable[[Connection], asyncio.Protocol],
    ) -> None:
        limits = self._connections.limits
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: make_protocol(self),
                self._socket,
                ssl=context,
                # `expire` comes first, and counts.
                ssl_handshake_timeout=2 * limits.handshake_seconds + 1,
                ssl_shutdown_timeout=limits.linger_seconds,
            )
            # A connection that is held back keeps this much encrypted input, 256 kB by default.
            transport.set_read_buffer_limits(_RECEIVE_BUFFER_BYTES)  # type: ignore[attr-defined]
        except OSError:  # includes ssl.SSLError
            pass  # a peer that went away, or that speaks no TLS: nothing that an operator could do
        finally:
            self._connections.remove(self)

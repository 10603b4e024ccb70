"""One request and its answer on a connection, and how both use the transport, where uvicorn's own way does not do."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Ending(Protocol):
    """A connection that can be closed after its answer."""

    is_ending: bool

    def end(self) -> None:
        """Closes the connection after its answer."""


class PoliteTransport(asyncio.Transport):
    """The transport, as uvicorn sees it: it can be used after it was lost, and closes without losing the answer."""

    def __init__(self, transport: asyncio.Transport, connection: Ending) -> None:
        super().__init__()
        self._transport: asyncio.Transport | None = transport
        self._connection: Ending | None = connection

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended."""
        return self._transport is None

    def lose(self) -> None:
        """Notes that the connection has ended."""
        self._transport = self._connection = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of the transport."""
        return default if self._transport is None else self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends data; nothing happens when the caller has gone."""
        if self._transport is not None:
            self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether no answer can be sent any more."""
        return (
            self._transport is None
            or self._connection is None
            or self._connection.is_ending
            or self._transport.is_closing()
        )

    def pause_reading(self) -> None:
        """Leaves what arrives in the kernel, which then tells the caller to wait."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Lets the connection end in its own way."""
        if self._connection is not None:
            self._connection.end()

    def close_now(self) -> None:
        """Closes the connection once everything is sent."""
        if self._transport is not None:
            self._transport.close()

    def write_eof(self) -> None:
        """Tells the caller that nothing more comes. TLS has no way to say so."""
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def abort(self) -> None:
        """Closes the connection and drops what is not sent."""
        if self._transport is not None:
            self._transport.abort()


class Flow(FlowControl):
    """Reads on only while there is room: uvicorn reads on whenever a request asks for its body, or waits for its caller
    to hang up."""

    def __init__(self, transport: PoliteTransport) -> None:
        super().__init__(transport)
        self.is_backed_up = False

    def resume_reading(self) -> None:
        """Reads again, unless requests wait behind each other."""
        if not self.is_backed_up:
            super().resume_reading()


class Exchange(RequestResponseCycle):
    """One request and its answer."""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection outlives the answer. It does not where the answer comes before the end of the request:
        the rest could be of any length."""
        if self.more_body:
            self._keep_alive = False
        return self._keep_alive

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:
        self._keep_alive = value

    def hang_up(self) -> None:
        """Tells the request that its caller has gone."""
        self.disconnected = True
        self.message_event.set()

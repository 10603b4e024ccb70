"""HTTP/1.1 on one connection: uvicorn's protocol on httptools, with the limits that it lacks.

What arrives is parsed in pieces of 1 kB, and every piece is counted, so that a caller is refused before what it sends
takes memory or time. Parsing stops while a request waits behind another one, and then so does reading: a caller who
sends faster than it is answered, or who reads nothing, is held back by TCP. Why a subclass and not another server:
docs/decisions/0061.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Final
from urllib.parse import unquote

import httptools
from uvicorn._types import HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from inference_server.api.http.connections import Connection, Connections
from inference_server.api.http.errors import refusal_response
from inference_server.api.http.exchange import Exchange, Flow, PoliteTransport
from inference_server.api.http.limits import Limit

_PIECE_BYTES: Final = 1024
_WRITE_BUFFER_BYTES: Final = 32 << 10
"""Output that may wait in the process before the next answer waits for the caller to read; 512 kB by default under
TLS."""
_FRAMING_PER_BODY_BYTE: Final = 8
"""A chunk of one byte takes six: "1\\r\\nx\\r\\n"."""


class _OverLimit(Exception):
    """Ends the parsing of a request. Never leaves this module."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    transport: PoliteTransport
    flow: Flow

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        connections: Connections,
        handshake: Connection | None = None,
    ) -> None:
        """`handshake` is what counted as the connection until now, under TLS."""
        super().__init__(config, server_state, {}, asyncio.get_running_loop())
        self.url = b""
        self.address = ""
        self.deadline = math.inf
        self.held_bytes = 0
        self.is_ending = False
        self._connections = connections
        self._limits = connections.limits
        self._handshake = handshake
        self._running: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._unparsed: memoryview[int] | None = None
        self._refusal = b""
        self._idle_deadline = math.nan
        self._in_head = False
        self._in_body = False
        self._has_begun = False
        self._is_left_out = False
        self._head_bytes = 0
        self._body_left = 0
        self._body_in_piece = 0
        self._framing_bytes = 0
        self._dropped_bytes = 0

    # -- called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection in, or refuses it."""
        transport.set_write_buffer_limits(_WRITE_BUFFER_BYTES)
        super().connection_made(PoliteTransport(transport, self))
        self.flow = Flow(self.transport)
        self.address = self.client[0] if self.client else ""
        if self._handshake is not None:
            self._connections.remove(self._handshake)
            self._handshake = None
        limit = self._connections.admit(self)
        if limit is None:
            self._await_request()
        elif self._connections.turn_away(self):
            self.refuse(limit, 429 if limit is Limit.CONNECTIONS_PER_ADDRESS else 503, "too many connections")
        else:
            self.give_way(limit)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells every request that its caller has gone."""
        self.transport.lose()
        self._connections.remove(self)
        self._unparsed = None
        if self._running is not None:
            self._running.hang_up()
        self._queue.clear()
        super().connection_lost(exc)
        # Without these circles the memory of a connection, under TLS 50 kB, is free at once.
        self.cycle = None  # type: ignore[assignment]
        self.flow = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parses what has arrived, as far as there is room for it."""
        if self._reads_no_more():
            self._drop(data)
            return
        self._connections.hold(self, len(data))
        if self._reads_no_more():
            return
        if self._unparsed is not None:
            # Under TLS a transport may deliver what it had read before it was paused.
            self._unparsed = memoryview(bytes(self._unparsed) + data)
            return
        if self.deadline == self._idle_deadline:
            self.deadline = self.loop.time() + self._limits.head_seconds
        self._parse(memoryview(data))

    def pause_writing(self) -> None:
        """The caller does not read its answer."""
        super().pause_writing()
        if not self.is_ending:
            self.deadline = self.loop.time() + self._limits.write_seconds
            self._connections.waits(self)

    def resume_writing(self) -> None:
        """The caller reads again."""
        super().resume_writing()
        if self.is_ending or self.transport.is_lost:
            return
        if self._running is None:
            self._await_request()
        else:
            self.deadline = math.inf
            self._connections.works(self)

    # -- called by the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._has_begun = True
        self._head_bytes = 0
        self._body_left = 0
        self._framing_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line; or a trailer, which must not count as a header of its request and which nobody reads."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"content-length":
            self._body_left = int(value)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A request begins to be answered, or waits behind the one before."""
        self._in_head = False
        limits = self._limits
        if len(self.url) > limits.max_url_bytes or len(self.headers) > limits.max_header_lines:
            raise _OverLimit
        version = self.parser.get_http_version()
        exchange = Exchange(
            scope=self._scope(version),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version != "1.0",
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.cycle = exchange
        self._in_body = True
        # The parser takes what follows an upgrade for another protocol, but nothing else is spoken here, and clients
        # that offer HTTP/2 in this way send a body all the same.
        self._is_left_out = self._body_left > 0 and self.parser.should_upgrade()
        if self._running is None:
            self._run(exchange)
            if not self.flow.write_paused:
                self.deadline = math.inf
        else:
            self._queue.append(exchange)

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._body_left -= len(body)
        self._body_in_piece += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        if self._is_left_out:
            return
        self._in_body = False
        self._head_bytes = 0
        self._body_left = 0
        if not self.flow.write_paused:
            self._connections.works(self)
        super().on_message_complete()

    # -- called by uvicorn

    def on_response_complete(self) -> None:
        """An answer is sent: the next request is answered, or waited for."""
        self._running = None
        if self.is_ending or self.transport.is_lost:
            return
        if self._queue:
            self._run(self._queue.popleft())
        if not self._queue:
            rest, self._unparsed = self._unparsed, None
            self.flow.is_backed_up = False
            if rest is not None:
                self._parse(rest)
        if self._running is None and not self.is_ending:
            if self._refusal:
                self._send_refusal()
            else:
                self._connections.release(self)
                self._await_request()
        self.flow.resume_reading()

    def shutdown(self) -> None:
        """The server stops: what has been read is answered, and nothing more."""
        if self._running is None:
            self.end()
        else:
            self._unparsed = None
            self.cycle.keep_alive = False

    # -- called by `Connections`

    def expire(self) -> None:
        """Ends what has taken too long."""
        self.deadline = math.inf
        if self.is_ending:
            self.abort()
        elif self.flow.write_paused:
            self.give_way(Limit.WRITE_SECONDS)
        elif self._in_head:
            text = f"the head of the request did not arrive within {self._limits.head_seconds:g} s"
            self.refuse(Limit.HEAD_SECONDS, 408, text)
        else:
            self.end()

    def give_way(self, limit: Limit) -> None:
        """Closes the connection, because it or all connections together exceed a limit."""
        if limit is Limit.HELD_BYTES:
            self.refuse(limit, 503, "the server holds as much of unanswered requests as it can")
        else:
            self._connections.refusals.count(limit, self.address)
            self.abort()

    def abort(self) -> None:
        """Closes the connection without a word."""
        self.is_ending = True
        self._connections.remove(self)
        self.transport.abort()

    # -- the end of a connection

    def refuse(self, limit: Limit, status: int, message: str) -> None:
        """Answers the request that is being read with an error, after the answers to those before it, and closes."""
        is_cut = self._in_body and self.cycle is self._running
        # A request that is cut off in its body is counted where it was to be answered.
        self._connections.refusals.count(limit, self.address, status=None if is_cut else status)
        self._connections.release(self)
        self._unparsed = None
        body = bytes(refusal_response(status, message).body)
        headers = [*self.server_state.default_headers, (b"content-type", b"application/json")]
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self._refusal = STATUS_LINE[status] + lines + b"\r\n" + body
        if is_cut and self._running is not None:
            # Its body will never be whole.
            self._running.hang_up()
            if self._running.response_started:
                self.abort()
                return
            self._running = None
        elif self._in_body and self._queue:
            self._queue.pop()
        if self._running is None:
            self._send_refusal()

    def end(self) -> None:
        """Closes the connection after its answer. While a request is still arriving, its rest is read and dropped."""
        if self.is_ending or self.transport.is_lost:
            return
        is_arriving = self._in_head or self._in_body or self._unparsed is not None or bool(self._refusal)
        self.is_ending = True
        self._unparsed = None
        self._connections.release(self)
        self._connections.waits(self)
        self.deadline = self.loop.time() + self._limits.linger_seconds
        if is_arriving:
            self.transport.write_eof()
            self.flow.is_backed_up = False
            self.flow.resume_reading()
        else:
            self.transport.close_now()

    def _send_refusal(self) -> None:
        self.transport.write(self._refusal)
        self.end()

    def _reads_no_more(self) -> bool:
        return self.is_ending or bool(self._refusal)

    def _drop(self, data: bytes) -> None:
        self._dropped_bytes += len(data)
        if self._dropped_bytes > self._limits.max_linger_bytes:
            self.abort()

    # -- parsing

    def _await_request(self) -> None:
        self._connections.waits(self)
        if not self.flow.write_paused:
            now = self.loop.time()
            self._idle_deadline = math.nan if self._in_head else now + self._limits.idle_seconds
            self.deadline = now + self._limits.head_seconds if self._in_head else self._idle_deadline

    def _run(self, exchange: Exchange) -> None:
        self._running = exchange
        self._start_asgi_task(exchange, self.app)

    def _scope(self, version: str) -> HTTPScope:
        # "*" and "host:port" are no paths of ours; a proxy may send the whole URL.
        is_usual = self.url.startswith(b"/") or b"://" in self.url
        url = httptools.parse_url(self.url if is_usual else b"/" + self.url)
        path = url.path or b"/"
        text = path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "",
            "method": self.parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": url.query or b"",
            "headers": self.headers,
            "state": {},
        }

    def _parse(self, data: memoryview[int]) -> None:
        """Parses up to the first request that has to wait. The rest is kept, and nothing more is read."""
        position, end = 0, len(data)
        while position < end:
            if self._queue:
                self._unparsed = data[position:]
                self.flow.is_backed_up = True
                self.flow.pause_reading()
                return
            if self._is_left_out:
                part = data[position : position + self._body_left]
                position += len(part)
                self._is_left_out = len(part) < self._body_left
                self.on_body(bytes(part))
                if not self._is_left_out:
                    self.on_message_complete()
                continue
            # A body of known length holds nothing that needs to be counted.
            piece = data[position : position + max(_PIECE_BYTES, self._body_left)]
            position += len(piece)
            was_in_body, self._has_begun, self._body_in_piece = self._in_body, False, 0
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                position += upgrade.args[0] - len(piece)
            except httptools.HttpParserError:
                self._refuse_what_is_wrong()
                return
            if self.is_ending:
                return
            if was_in_body and self._in_body:
                body_bytes = self._body_in_piece * (1 + _FRAMING_PER_BODY_BYTE)
                self._framing_bytes = max(0, self._framing_bytes + len(piece) - body_bytes)
            elif not (was_in_body or self._in_body or self._has_begun):
                # A head that goes on, or line ends before one, which the parser skips.
                self._head_bytes += len(piece)
            if self._is_over_limit():
                self._refuse_what_is_wrong()
                return

    def _is_over_limit(self) -> bool:
        limits = self._limits
        if self._head_bytes > limits.max_head_bytes or self._framing_bytes > limits.max_framing_bytes:
            return True
        return self._in_head and (len(self.headers) > limits.max_header_lines or len(self.url) > limits.max_url_bytes)

    def _refuse_what_is_wrong(self) -> None:
        limits = self._limits
        if self.url is not None and len(self.url) > limits.max_url_bytes:
            self.refuse(Limit.URL, 414, f"the URL must have at most {limits.max_url_bytes} bytes")
        elif self.headers is not None and len(self.headers) > limits.max_header_lines:
            self.refuse(Limit.HEADER_LINES, 431, f"there must be at most {limits.max_header_lines} header lines")
        elif self._head_bytes > limits.max_head_bytes:
            self.refuse(Limit.HEAD, 431, f"the head must have at most {limits.max_head_bytes} bytes")
        elif self._framing_bytes > limits.max_framing_bytes:
            text = f"the sizes of chunks, and trailers, must have at most {limits.max_framing_bytes} bytes"
            self.refuse(Limit.FRAMING, 431, text)
        else:
            self.refuse(Limit.MALFORMED, 400, "this is not HTTP/1.1")

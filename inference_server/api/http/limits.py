"""What the HTTP port takes from a connection before anybody knows who is calling, and the count of what it refused.

uvicorn and httptools have no limits of their own: a head, a URL or a queue of requests may grow until the process has
no memory left, and all of it is kept before a key is checked.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Final, Self

import structlog

from inference_server.core.settings import Settings
from inference_server.telemetry.line_limit import LineLimit
from inference_server.telemetry.statistics import Statistics

_log = structlog.get_logger()

_LOG_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """Limits of one worker's HTTP port. Sizes are exact to 1 kB: a piece of this size is parsed at once."""

    max_head_bytes: int = 16 << 10
    """Request line and header lines together, spaces included."""
    max_header_lines: int = 100
    max_url_bytes: int = 8 << 10
    max_framing_bytes: int = 16 << 10
    """Sizes and extensions of chunks, and trailers, as far as they exceed 8 bytes for each byte of the body."""
    head_seconds: float = 10.0
    """From the first byte of a request to the end of its head."""
    handshake_seconds: float = 10.0
    """From accepting a connection to the end of its TLS handshake."""
    idle_seconds: float = 75.0
    """From an answer, or from the start of a connection, to the next request. Longer than the 60 s after which load
    balancers close a connection: if the server closed first, a request that crosses the close would be lost."""
    write_seconds: float = 20.0
    """How long a caller may leave an answer unread while further output waits."""
    linger_seconds: float = 2.0
    """How long the rest of a refused request is read and dropped. Closed at once, the connection would be reset, and
    the caller would lose the answer."""
    max_linger_bytes: int = 16 << 20
    """How much of it is dropped before the connection is reset after all."""
    max_held_bytes: int = 12 << 20
    """Bytes of requests that are not answered yet, over all connections."""
    max_connections: int = 500
    """Connections at once. A new one takes the place of the connection that has been without a whole request for
    longest; if every one of them has a request in progress, it is refused."""
    max_connections_per_address: int = 0
    """Connections at once from one IPv4 address or one IPv6 network of 64 bits; 0: no limit."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits of a worker with these settings. The other half of its file descriptors is for gRPC, the store and
        files."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = settings.http_max_connections
        return cls(
            max_connections=most if descriptors == resource.RLIM_INFINITY else min(most, max(1, descriptors // 2)),
            max_connections_per_address=settings.http_max_connections_per_address,
            # Room for at least some of the largest bodies.
            max_held_bytes=max(cls.max_held_bytes, 4 * settings.max_request_bytes),
        )


class Limit(StrEnum):
    """Which limit was exceeded; the values label the metric."""

    MALFORMED = "malformed"
    HEAD = "head"
    HEADER_LINES = "header_lines"
    URL = "url"
    FRAMING = "framing"
    HEAD_SECONDS = "head_seconds"
    HANDSHAKE_SECONDS = "handshake_seconds"
    WRITE_SECONDS = "write_seconds"
    HELD_BYTES = "held_bytes"
    CONNECTIONS = "connections"
    CONNECTIONS_PER_ADDRESS = "connections_per_address"


class Refusals:
    """Counts what is refused. Anybody can cause a refusal, so each limit gets at most one log line a minute."""

    def __init__(self, statistics: Statistics, *, clock: Callable[[], float] = monotonic) -> None:
        """`clock` counts seconds."""
        self._statistics = statistics
        self._lines = LineLimit(seconds=_LOG_SECONDS, clock=clock)

    def count(self, limit: Limit, address: str, *, status: int | None = None) -> None:
        """Counts one connection that is closed for this reason. `status` is that of the answer, if there is one."""
        self._statistics.http_refused_by_limit[limit] += 1
        if status is not None:
            self._statistics.http_requests_by_status[str(status)] += 1
        left_out = self._lines.admit(limit)
        if left_out is not None:
            _log.warning("http_refused", limit=str(limit), count=left_out + 1, last_address=address)

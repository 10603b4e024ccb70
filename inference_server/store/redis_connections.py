"""Connections to Redis or Valkey, for the store's reads and for `events.redis_stream`.

The only module that imports redis. Connections are used directly rather than through `redis.asyncio.Redis`: the client
checks a connection for stray bytes before every command, and its retry policy would wait longer than a request may
take.
"""

from __future__ import annotations

from typing import Final

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import OutOfMemoryError, ResponseError

__all__ = ["AbstractConnection", "Connections", "OutOfMemoryError", "ResponseError"]

_DRIVER: Final = DriverInfo()
"""What CLIENT LIST shows of us. Made once: redis-py would read its own version from a file for every connection, and a
worker without a free file descriptor would fail the call."""


class Connections:
    """Makes connections to one server."""

    def __init__(self, url: str) -> None:
        """`url` is in redis-py's format. Raises ValueError for any other."""
        # The pool is only a factory here: callers keep the connections that they make.
        self._factory = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), protocol=2, driver_info=_DRIVER)

    def make(self) -> AbstractConnection:
        """A new connection, which connects on first use."""
        connection: AbstractConnection = self._factory.make_connection()  # type: ignore[no-untyped-call]
        return connection

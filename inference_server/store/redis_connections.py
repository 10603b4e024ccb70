"""Connections to Redis or Valkey, for who reads (`store`) and for who appends (`events.redis_stream`).

The only module that imports redis. Connections are used directly rather than through `redis.asyncio.Redis`: the client
checks a connection for stray bytes before every command, and its retry policy would wait longer than a request may
take.
"""

from __future__ import annotations

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, ResponseError

__all__ = ["AbstractConnection", "Connections", "OutOfMemoryError", "ResponseError"]


class Connections:
    """Makes connections to one server."""

    def __init__(self, url: str) -> None:
        """`url` as redis-py takes it. Raises ValueError for one it cannot parse."""
        # A pool that serves as the factory alone: who needs a connection keeps it.
        self._factory = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), protocol=2)

    def make(self) -> AbstractConnection:
        """A connection that connects when it is first used."""
        connection: AbstractConnection = self._factory.make_connection()  # type: ignore[no-untyped-call]
        return connection

"""The connections of a worker's HTTP port: how many there are, from where, what they hold, and until when.

One task looks at all deadlines twice a second. A timer for each of them would cost every request more than the limits
do.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import Final, Protocol

from inference_server.api.http.limits import HttpLimits, Limit, Refusals

_LOOK_SECONDS: Final = 0.5
_MAX_TURNED_AWAY: Final = 64
"""Connections beyond the limits that may still read why."""
_MAPPED: Final = "::ffff:"


class Connection(Protocol):
    """A connection, as this module sees it."""

    address: str
    deadline: float
    """Time of the event loop at which `expire` is called."""
    held_bytes: int
    """Size of what has arrived of the requests that are not answered yet."""

    def expire(self) -> None:
        """Ends what has taken too long."""

    def give_way(self, limit: Limit) -> None:
        """Closes the connection, because all connections together exceed a limit."""

    def abort(self) -> None:
        """Closes the connection without a word."""


class Connections:
    """All connections of one port."""

    def __init__(self, limits: HttpLimits, refusals: Refusals) -> None:
        self.limits = limits
        self.refusals = refusals
        self._open: set[Connection] = set()
        self._turned_away: set[Connection] = set()
        self._by_network: Counter[str] = Counter()
        self._held_bytes = 0
        # In the order in which they came to be without a whole request.
        self._waiting: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Connection) -> Limit | None:
        """Takes a new connection in, if there is room, and otherwise returns the limit that it exceeds."""
        network = _network(connection.address)
        per_address = self.limits.max_connections_per_address
        if per_address and self._by_network[network] >= per_address:
            return Limit.CONNECTIONS_PER_ADDRESS
        if len(self._open) >= self.limits.max_connections:
            if not self._waiting:
                return Limit.CONNECTIONS
            next(iter(self._waiting)).give_way(Limit.CONNECTIONS)
        self._open.add(connection)
        self._by_network[network] += 1
        self._waiting[connection] = None
        return None

    def turn_away(self, connection: Connection) -> bool:
        """Whether a connection that was not admitted may stay for the time that it takes to tell it so."""
        if len(self._turned_away) >= _MAX_TURNED_AWAY:
            return False
        self._turned_away.add(connection)
        return True

    def remove(self, connection: Connection) -> None:
        """Forgets a connection, admitted or turned away; one that has been removed before is no error."""
        self._turned_away.discard(connection)
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        self._held_bytes -= connection.held_bytes
        connection.held_bytes = 0
        network = _network(connection.address)
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def abort_all(self) -> None:
        """Closes everything at once."""
        for connection in (*self._open, *self._turned_away):
            connection.abort()

    def waits(self, connection: Connection) -> None:
        """Notes that the connection has no whole request, or does not read its answer: it gives way when there is no
        room."""
        if connection in self._open:
            self._waiting[connection] = None

    def works(self, connection: Connection) -> None:
        """Notes that the connection has a whole request."""
        self._waiting.pop(connection, None)

    def hold(self, connection: Connection, num_bytes: int) -> None:
        """Adds bytes that have arrived. If that is too much for the worker, the connection that holds most gives way,
        among those whose request is not whole."""
        connection.held_bytes += num_bytes
        self._held_bytes += num_bytes
        while self._held_bytes > self.limits.max_held_bytes:
            most = max(self._waiting, key=_held_bytes, default=connection)
            # A whole request in progress keeps its bytes; they become free when it is answered.
            (most if most.held_bytes else connection).give_way(Limit.HELD_BYTES)
            if not connection.held_bytes:
                return

    def release(self, connection: Connection) -> None:
        """Frees what the connection holds."""
        self._held_bytes -= connection.held_bytes
        connection.held_bytes = 0

    async def keep_deadlines(self) -> None:
        """Ends what takes too long, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = loop.time()
            for connection in (*self._open, *self._turned_away):
                if connection.deadline < now:
                    connection.expire()


def _held_bytes(connection: Connection) -> int:
    return connection.held_bytes


def _network(address: str) -> str:
    """What counts as one address: an IPv4 address, or the 64 bits of an IPv6 network, which one host has to itself."""
    if ":" not in address:
        return address
    if address.startswith(_MAPPED):
        return address.removeprefix(_MAPPED)
    return str(ipaddress.ip_address(address.partition("%")[0]).packed[:8])

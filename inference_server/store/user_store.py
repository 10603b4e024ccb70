"""Reads of the online store, by requests and by the follower of the live catalogue.

A read is ONE MGET for all keys of a micro-batch (see `micro_batches`): a command costs this process about as much time
as the rest of a request, so the requests of a batch share it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from inference_server.core.breaker import Breaker
from inference_server.core.degradation import Degraded
from inference_server.store.dependency import Dependency
from inference_server.store.explanation import Explanation
from inference_server.store.redis_connections import AbstractConnection, Connections, ResponseError
from inference_server.telemetry.statistics import STORE, Statistics
from tandem.contract.store import populated_key, published_key
from tandem.ops.store_health import StoreHealth, health_of

_MIN_PATIENCE_SECONDS: Final = 0.25
"""Shortest time for which a read waits for its reply, even if all its callers give up sooner: a request with a tiny
deadline must not cost the other requests a healthy connection."""
_FEED_PATIENCE_SECONDS: Final = 1.0
"""Longest wait for the reply to a read of a feed, which no request waits for."""
_PROBE_SECONDS: Final = 0.5
"""Pause between two probes."""
_PROBE_TIMEOUT_SECONDS: Final = 1.0

_EMPTY: Final = (
    "it holds no published states: it was emptied, or never filled; `python -m feature_sync rebuild` restores them"
)

Values = list[bytes | None]
"""Values in the order of their keys; None for a key without a value."""


class StoreFailed(Exception):
    """A read without a reply. Never reaches a caller of the API: the answer is degraded, or the read repeated later."""

    def __init__(self, reason: Degraded) -> None:
        super().__init__(reason)
        self.reason = reason


def _pack(*parts: bytes) -> bytes:
    """A command in RESP. Not redis-py's packer, which looks at the type of every part: three microseconds a user."""
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)])


class ReadsStore(Protocol):
    """What the stages need of a store."""

    def read(self, keys: Sequence[bytes], patience_seconds: float) -> asyncio.Task[Values]:
        """Starts to read the values of keys, which takes at most about `patience_seconds`.

        The task raises no exception but StoreFailed. A caller that does not want to wait any longer leaves the task
        alone: it ends by itself, and its connection stays usable.
        """
        ...

    @property
    def absence(self) -> Degraded | None:
        """Why the store may lack a state that it should have; None if a user without a state is a new user."""
        ...


class ReadsFeeds(ReadsStore, Protocol):
    """What the follower of the live catalogue needs of a store."""

    async def changed_members(self, changes: bytes, *, after: int, until: int, count: int) -> list[tuple[bytes, int]]:
        """The first `count` members of a sorted set with scores in (after, until], and their scores.

        Raises StoreFailed.
        """
        ...

    async def hash_values(self, values: bytes, fields: Sequence[bytes]) -> Values:
        """Values of fields of a hash. Raises StoreFailed."""
        ...


class UserStore:
    """Reads the values of many keys at once, behind a breaker."""

    def __init__(
        self,
        url: str,
        statistics: Statistics,
        breaker: Breaker | None = None,
        *,
        model_version: Callable[[], str] = lambda: "",
    ) -> None:
        """Does not connect before `start`. `url` is in redis-py's format. Raises ValueError for any other.

        `model_version` returns the version that serves; a store in which it was published is not empty.
        """
        self._model_version = model_version
        self._connections = Connections(url)
        self._dependency = Dependency(STORE, statistics, breaker)
        self._statistics = statistics
        self._explanation = Explanation(url)
        self._health = StoreHealth()
        self._is_empty = False
        self._free_connections: list[AbstractConnection] = []
        self._reads: set[asyncio.Task[Values]] = set()
        self._probing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Probes the store once, and then regularly until `close`."""
        probe = self._connections.make()
        await self._probe_once(probe)
        self._probing = asyncio.create_task(self._probe(probe), name="store-probe")

    async def close(self) -> None:
        """Closes all connections."""
        tasks = [*self._reads, *([self._probing] if self._probing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._explanation.close()
        for connection in self._free_connections:
            await connection.disconnect(nowait=True)
        self._free_connections.clear()

    def read(self, keys: Sequence[bytes], patience_seconds: float) -> asyncio.Task[Values]:
        """See `ReadsStore`."""
        task = asyncio.create_task(self._ask(_pack(b"MGET", *keys), max(patience_seconds, _MIN_PATIENCE_SECONDS)))
        self._reads.add(task)
        task.add_done_callback(self._forget)
        return task

    @property
    def absence(self) -> Degraded | None:
        """See `ReadsStore`. As of the last probe."""
        if self._is_empty:
            return Degraded.STORE_EMPTY
        return Degraded.STORE_EVICTS if self._health.num_evicted else None

    async def changed_members(self, changes: bytes, *, after: int, until: int, count: int) -> list[tuple[bytes, int]]:
        """See `ReadsFeeds`."""
        bounds = (b"(%d" % after, b"%d" % until)
        command = _pack(b"ZRANGEBYSCORE", changes, *bounds, b"WITHSCORES", b"LIMIT", b"0", b"%d" % count)
        reply = [part for part in await self._ask(command, _FEED_PATIENCE_SECONDS) if part is not None]
        return [(member, int(float(score))) for member, score in zip(reply[::2], reply[1::2], strict=True)]

    async def hash_values(self, values: bytes, fields: Sequence[bytes]) -> Values:
        """See `ReadsFeeds`."""
        return await self._ask(_pack(b"HMGET", values, *fields), _FEED_PATIENCE_SECONDS)

    def _forget(self, task: asyncio.Task[Values]) -> None:
        self._reads.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved here, because there may be no caller left to await the task

    async def _ask(self, packed_command: bytes, patience_seconds: float) -> Values:
        """The reply to a command that replies with a list. Raises StoreFailed."""
        if self._health.refusal or not self._dependency.allows():
            raise StoreFailed(Degraded.STORE_UNAVAILABLE)
        connection: AbstractConnection | None = None
        usable = False
        try:
            connection = self._free_connections.pop() if self._free_connections else self._connections.make()
            async with asyncio.timeout(patience_seconds):
                await connection.send_packed_command([packed_command], check_health=False)
                values: Values = await connection.read_response(disable_decoding=True)
            usable = True
        except TimeoutError as error:
            self._dependency.failed("timeout")
            raise StoreFailed(Degraded.STORE_TIMEOUT) from error
        except Exception as error:  # whatever the store or the client raises, every request of the batch is answered
            self._failed(error)
            raise StoreFailed(Degraded.STORE_UNAVAILABLE) from error
        finally:
            if connection is not None and usable:
                self._free_connections.append(connection)
            elif connection is not None:
                # The reply may still come, and would be taken for the next command's.
                await connection.disconnect(nowait=True)
        self._dependency.succeeded()
        return values

    async def _probe(self, connection: AbstractConnection) -> None:
        """Keeps the store's state up to date while no requests come, and closes the breaker soon after an outage."""
        try:
            while True:
                await asyncio.sleep(_PROBE_SECONDS)
                if self._dependency.may_be_probed():
                    await self._probe_once(connection)
        finally:
            await connection.disconnect(nowait=True)

    async def _probe_once(self, connection: AbstractConnection) -> None:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_SECONDS):
                # MGET, because it is the one command that a restricted user of the store surely may use.
                marks = await _reply(connection, "MGET", populated_key(), published_key(self._model_version()))
                self._is_empty = marks == [None, None]
                self._health = await _health(connection)
        except Exception as error:  # whatever the store or the client raises, the store is not up
            await connection.disconnect(nowait=True)
            self._failed(error)
            return
        self._statistics.store_empty = int(self._is_empty)
        if self._health.refusal:
            # The address may lead to another server next time, so no connection is kept.
            for left in (connection, *self._free_connections):
                await left.disconnect(nowait=True)
            self._dependency.failed(self._health.refusal)
            return
        self._dependency.succeeded()
        self._dependency.warned(_EMPTY if self._is_empty else self._health.warning)

    def _failed(self, error: BaseException) -> None:
        self._dependency.failed(self._explanation.words(error))


async def _reply(connection: AbstractConnection, *command: str | bytes) -> Any:
    await connection.send_command(*command)
    return await connection.read_response(disable_decoding=True)


async def _health(connection: AbstractConnection) -> StoreHealth:
    """What the store says of itself; nothing where it does not allow the question."""
    try:
        return health_of(await _reply(connection, "INFO"))
    except ResponseError:
        return StoreHealth()

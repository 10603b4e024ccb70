"""The online store. The only module that imports redis.

Concurrent requests share round trips: a batch is ONE MGET of two keys per user, for everyone who asked since the one
before. A command costs this process about as much time as the rest of a request does, so it is sent at once only while
requests are rare; under load batches leave at a fixed pace and the cost is shared by all in them.

It speaks over `redis.asyncio` connections directly rather than through `redis.asyncio.Redis`: the client checks a
connection for stray bytes before every command, and its retry policy would wait longer than a request may take.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import structlog
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from inference_server.degradation import Degraded
from inference_server.statistics import STORE, Statistics

_log = structlog.get_logger()

_LANES: Final = 2
"""Connections, and so batches on their way at once. With the second one a lost packet on the first stops nobody new."""
_PACE_SECONDS: Final = 0.002
"""Least time between two batches. Measured with 32 callers in flight: without it nearly every batch is of one user,
because gRPC hands requests over one by one, and the store takes a third of the worker's time."""
_MAX_BATCH_USERS: Final = 128
"""Users in one MGET: larger ones make everyone in them wait for the largest reply."""
_MIN_PATIENCE_SECONDS: Final = 0.25
"""How long a batch at least waits for its reply, even if all its callers give up sooner: a caller with a tiny deadline
must not cost the others a healthy connection."""
_PROBE_SECONDS: Final = 1.0
_PROBE_TIMEOUT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class StoreReply:
    """What the store holds under two keys. With a `failure` it is not known."""

    vector: bytes | None
    state: bytes | None
    failure: Degraded | None = None


_UNAVAILABLE: Final = StoreReply(None, None, Degraded.STORE_UNAVAILABLE)
_TIMED_OUT: Final = StoreReply(None, None, Degraded.STORE_TIMEOUT)


@dataclass(slots=True)
class _Waiter:
    reply: asyncio.Future[StoreReply]
    vector_key: bytes
    state_key: bytes
    give_up_at: float


class UserStore:
    """Reads users' vectors and states. A store that fails or hangs gives replies that say so, never an exception."""

    def __init__(self, url: str, statistics: Statistics) -> None:
        """Connects when started. `url` as redis-py takes it. Raises ValueError for one it cannot parse."""
        self._pool = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), protocol=2)
        self._statistics = statistics
        self._statistics.dependencies_up[STORE] = False
        self._waiting: list[_Waiter] = []
        self._someone_waits = asyncio.Event()
        self._turn = asyncio.Lock()
        self._last_batch_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Looks whether the store is there and begins to take requests."""
        probe = self._connection()
        await self._probe_once(probe)
        self._tasks = [
            asyncio.create_task(self._probe(probe), name="store-probe"),
            *(asyncio.create_task(self._run_lane(), name=f"store-lane-{lane}") for lane in range(_LANES)),
        ]

    async def close(self) -> None:
        """Ends all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def fetch(self, vector_key: bytes, state_key: bytes, *, give_up_at: float) -> StoreReply:
        """Both values of one user. Waits until `give_up_at` (time.monotonic seconds) at the longest."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[StoreReply] = loop.create_future()
        timer = loop.call_later(max(give_up_at - time.monotonic(), 0.0), _give_up, reply)
        self._waiting.append(_Waiter(reply, vector_key, state_key, give_up_at))
        self._someone_waits.set()
        try:
            return await reply
        finally:
            timer.cancel()

    def _connection(self) -> AbstractConnection:
        # Outside the pool, which serves as the factory alone: each lane keeps its own connection.
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def _run_lane(self) -> None:
        """Sends batch after batch over one connection."""
        connection = self._connection()
        try:
            while True:
                async with self._turn:
                    batch = await self._next_batch()
                if batch:
                    await self._answer_batch(connection, batch)
        finally:
            await connection.disconnect(nowait=True)

    async def _next_batch(self) -> list[_Waiter]:
        """Takes the callers who wait longest, and drops those who have gone or given up."""
        await self._someone_waits.wait()
        too_early_seconds = self._last_batch_at + _PACE_SECONDS - time.monotonic()
        if too_early_seconds > 0:
            await asyncio.sleep(too_early_seconds)
        self._last_batch_at = time.monotonic()
        waiting = self._waiting
        batch = [waiter for waiter in waiting[:_MAX_BATCH_USERS] if not waiter.reply.done()]
        self._waiting = waiting[_MAX_BATCH_USERS:]
        if not self._waiting:
            self._someone_waits.clear()
        return batch

    async def _answer_batch(self, connection: AbstractConnection, batch: list[_Waiter]) -> None:
        keys: list[bytes] = []
        for waiter in batch:
            keys += (waiter.vector_key, waiter.state_key)
        self._statistics.store_batch_users.observe(len(batch))
        longest_wait_seconds = max(waiter.give_up_at for waiter in batch) - time.monotonic()
        try:
            async with asyncio.timeout(max(longest_wait_seconds, _MIN_PATIENCE_SECONDS)):
                await connection.send_command("MGET", *keys)
                values = await connection.read_response(disable_decoding=True)
        except TimeoutError:
            # A late reply would be read as the next batch's: this connection is of no more use.
            await connection.disconnect(nowait=True)
            self._set_up(up=False, reason="timeout")
            replies = [_TIMED_OUT] * len(batch)
        except (
            Exception
        ) as error:  # whatever store or client raise, everyone in the batch gets a reply, the lane lives on
            await connection.disconnect(nowait=True)
            self._set_up(up=False, reason=repr(error))
            replies = [_UNAVAILABLE] * len(batch)
        else:
            self._set_up(up=True)
            replies = [StoreReply(values[place], values[place + 1]) for place in range(0, len(values), 2)]
        for waiter, reply in zip(batch, replies, strict=True):
            if not waiter.reply.done():
                waiter.reply.set_result(reply)

    async def _probe(self, connection: AbstractConnection) -> None:
        """Keeps the store's state true while nobody asks for a recommendation."""
        try:
            while True:
                await asyncio.sleep(_PROBE_SECONDS)
                await self._probe_once(connection)
        finally:
            await connection.disconnect(nowait=True)

    async def _probe_once(self, connection: AbstractConnection) -> None:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_SECONDS):
                await connection.send_command("PING")
                await connection.read_response()
        except Exception as error:  # whatever store or client raise means the same: it is not up
            await connection.disconnect(nowait=True)
            self._set_up(up=False, reason=repr(error))
        else:
            self._set_up(up=True)

    def _set_up(self, *, up: bool, reason: str = "") -> None:
        if self._statistics.dependencies_up[STORE] == up:
            return
        self._statistics.dependencies_up[STORE] = up
        if up:
            _log.info("store_up")
        else:
            _log.warning("store_down", reason=reason)


def _give_up(reply: asyncio.Future[StoreReply]) -> None:
    if not reply.done():
        reply.set_result(_TIMED_OUT)

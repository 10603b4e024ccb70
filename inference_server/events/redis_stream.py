"""Redis Streams, the default stream: it runs in the online store, so there is no other server to operate.

A group of calls is ONE transaction. Redis applies a transaction as a whole, also when it restarts from its append-only
file, so either all entries of a call are in the stream or none. Streams are not trimmed here: feature_sync trims what
it has applied (see docs/decisions/0033-back-pressure-of-events.md).

When an entry is durable (docs/decisions/0032-durable-events.md): with `appendfsync always`, a reply comes after the
entry is on disk. With any other policy only WAITAOF could tell, and Valkey 9.1 answers it too early; so a server with
another policy is refused, unless the settings ask for less durability.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from inference_server.events.stream import Batch, StreamFailed, StreamFull
from inference_server.store.explanation import Explanation
from inference_server.store.redis_connections import AbstractConnection, Connections, OutOfMemoryError, ResponseError
from tandem.contract.streams import ENTRY_FIELD, EVENTS, IMPRESSIONS, ITEM_CHANGES, stream_key
from tandem.ops.store_health import StoreHealth, health_of
from tandem.ops.store_words import own_words

_APPEND_ALL: Final = (
    b"for index = 1, #ARGV do redis.call('XADD', KEYS[1], '*', '%b', ARGV[index]) end return #ARGV" % ENTRY_FIELD
)
_MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"
_PROBED: Final = (stream_key(EVENTS) + b"/probe", "NOMKSTREAM", "*", ENTRY_FIELD, b"")
"""Arguments of an XADD to a stream that does not exist, and is not made: it writes nothing, and the server refuses it
for every reason for which it would refuse an entry (a full memory, a read-only replica, a failed snapshot)."""
_PROBE_SECONDS: Final = 0.9
"""Less than the caller of `probe` waits, so that the reason of the silence can be found out."""
_LOCAL_COPIES: Final = 1
"""What WAITAOF waits for: the local append-only file."""


class RedisStream:
    """Appends over a connection of its own, so that reads of the store never wait for appends."""

    def __init__(
        self,
        url: str,
        *,
        fsync: bool,
        wait_ms: int,
        num_replicas: int = 0,
        replicas_wait_ms: int = 500,
        streams: Sequence[str] = (EVENTS, ITEM_CHANGES),
    ) -> None:
        """Appends to `streams`. `url` is in redis-py's format; raises ValueError for any other.

        With `fsync` an entry is durable once it is on disk, without it once Redis has it, and in both cases once
        `num_replicas` replicas have received it. `wait_ms` is the longest wait for the disk where the server's
        configuration is not readable, `replicas_wait_ms` for the replicas.
        """
        self._streams = tuple(streams)
        self._lengths = b"".join(
            b"*2\r\n$4\r\nXLEN\r\n$%d\r\n%b\r\n" % (len(stream_key(name)), stream_key(name)) for name in streams
        )
        self._additions = {name: _addition(name) for name in streams}
        self._connections = Connections(url)
        self._explanation = Explanation(url)
        self._num_replicas = num_replicas
        self._connection: AbstractConnection | None = None
        self._fsync = fsync
        self._wait_ms = wait_ms
        self._replicas_wait_ms = replicas_wait_ms
        self._asks_for_disk = False
        self._backlog: dict[str, int] = {}

    @property
    def backlog(self) -> Mapping[str, int]:
        """Number of entries by stream, including those that are applied but not trimmed yet."""
        return self._backlog

    async def append(self, batches: Sequence[Batch]) -> None:
        """Appends all batches in one transaction."""
        commands = [_MULTI]
        for batch in batches:
            if batch.stream == IMPRESSIONS:
                commands.append(_all_at_once(batch))
                continue
            add = self._additions[batch.stream]
            commands += [b"%b$%d\r\n%b\r\n" % (add, len(entry.value), entry.value) for entry in batch.entries]
        num_queued = len(commands) + len(self._streams)
        commands += [self._lengths, _EXEC]
        async with self._connected() as connection:
            await connection.send_packed_command(commands, check_health=False)
            await _read_queued(connection, num_queued)
            replies = await connection.read_response(disable_decoding=True)
            for reply in replies:
                if isinstance(reply, ResponseError):
                    raise reply
            self._note(replies[-len(self._streams) :])
            if self._asks_for_disk:
                await self._wait_for_disk(connection)
            if self._num_replicas:
                await self._wait_for_replicas(connection)

    async def probe(self) -> None:
        """Reads the lengths of the streams, and checks what may change while the server runs: its role, its
        durability, and whether it accepts writes."""
        async with self._connected(_PROBE_SECONDS) as connection:
            health = await self._check_role(connection)
            if health.num_replicas < self._num_replicas:
                raise StreamFailed(
                    f"{health.num_replicas} of {self._num_replicas} replicas are connected, for which "
                    "TANDEM_EVENTS_WAIT_REPLICAS waits"
                )
            await self._check_durability(connection)
            await connection.send_command("XADD", *_PROBED, check_health=False)
            try:
                await connection.read_response(disable_decoding=True)
            except OutOfMemoryError as error:
                raise _full(error) from error
            await connection.send_packed_command([self._lengths], check_health=False)
            self._note([await connection.read_response() for _ in self._streams])

    async def close(self) -> None:
        """Closes the connection."""
        await self._explanation.close()
        await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    @asynccontextmanager
    async def _connected(self, seconds: float | None = None) -> AsyncIterator[AbstractConnection]:
        """The connection, for at most `seconds`. It is closed after an error, because a late reply would be taken for
        the next command's.

        Raises StreamFailed in place of whatever the client raises.
        """
        try:
            async with asyncio.timeout(seconds):
                if self._connection is None:
                    self._connection = self._connections.make()
                    await self._connection.connect()  # type: ignore[no-untyped-call]
                    await self._check_role(self._connection)
                    await self._check_durability(self._connection)
                yield self._connection
        except StreamFull:
            raise
        except BaseException as error:
            await self._disconnect()
            if isinstance(error, Exception) and not isinstance(error, StreamFailed):
                raise StreamFailed(self._explanation.words(error)) from error
            raise

    async def _check_role(self, connection: AbstractConnection) -> StoreHealth:
        """The server's health. Raises StreamFailed for a server to which nothing should be appended now."""
        await connection.send_command("INFO", check_health=False)
        try:
            health = health_of(await connection.read_response(disable_decoding=True))
        except ResponseError:
            # A managed server may not allow the question; WAIT counts its replicas all the same.
            health = StoreHealth(num_replicas=self._num_replicas)
        if health.refusal:
            raise StreamFailed(health.refusal)
        return health

    async def _check_durability(self, connection: AbstractConnection) -> None:
        """Raises StreamFailed for a server that acknowledges entries before they are on disk."""
        if not self._fsync:
            return
        await connection.send_command("CONFIG", "GET", "append*", check_health=False)
        try:
            reply = await connection.read_response(disable_decoding=True)
        except ResponseError:
            # Managed servers do not show their configuration, so only WAITAOF is left to ask.
            self._asks_for_disk = True
            return
        configured = dict(zip(reply[::2], reply[1::2], strict=True))
        appendonly, appendfsync = (configured[name].decode() for name in (b"appendonly", b"appendfsync"))
        if (appendonly, appendfsync) != ("yes", "always"):
            raise StreamFailed(
                f"the server has appendonly {appendonly} and appendfsync {appendfsync}, so what it acknowledges may be "
                "lost: set yes and always there, or accept it with TANDEM_EVENTS_DURABILITY=memory"
            )

    async def _wait_for_disk(self, connection: AbstractConnection) -> None:
        await connection.send_command("WAITAOF", _LOCAL_COPIES, 0, self._wait_ms, check_health=False)
        on_disk, _ = await connection.read_response()
        if on_disk < _LOCAL_COPIES:
            raise StreamFailed(f"not on disk within {self._wait_ms} ms")

    async def _wait_for_replicas(self, connection: AbstractConnection) -> None:
        await connection.send_command("WAIT", self._num_replicas, self._replicas_wait_ms, check_health=False)
        num_received = await connection.read_response()
        if num_received < self._num_replicas:
            raise StreamFailed(
                f"{num_received} of {self._num_replicas} replicas received the entries within "
                f"{self._replicas_wait_ms} ms (TANDEM_EVENTS_WAIT_REPLICAS)"
            )

    def _note(self, lengths: Sequence[int]) -> None:
        self._backlog.update(zip(self._streams, lengths, strict=True))


def _all_at_once(batch: Batch) -> bytes:
    """A script in RESP that appends all entries and has one reply: to read two for each entry takes as long as
    everything else that is done for an impression. Events are appended one by one, so that a full memory refuses them
    before the transaction begins."""
    key = stream_key(batch.stream)
    values = [b"$%d\r\n%b\r\n" % (len(entry.value), entry.value) for entry in batch.entries]
    head = b"*%d\r\n$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (3 + 1 + len(values), len(_APPEND_ALL), _APPEND_ALL)
    return b"".join((head, b"$1\r\n1\r\n$%d\r\n%b\r\n" % (len(key), key), *values))


def _addition(name: str) -> bytes:
    """An XADD in RESP, up to the value: redis-py takes six times as long to pack one."""
    key = stream_key(name)
    head = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n" % (len(key), key)
    return head + b"$%d\r\n%b\r\n" % (len(ENTRY_FIELD), ENTRY_FIELD)


async def _read_queued(connection: AbstractConnection, num_replies: int) -> None:
    """Reads the replies before that of EXEC. Raises StreamFull, or the error with which a command was refused."""
    refused: ResponseError | None = None
    for _ in range(num_replies):
        try:
            await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            refused = refused or error
    if refused is None:
        return
    try:
        await connection.read_response(disable_decoding=True)
    except ResponseError:  # EXEC discards the transaction, with an error of its own
        if isinstance(refused, OutOfMemoryError):
            raise _full(refused) from refused
        raise refused from None


def _full(refused: OutOfMemoryError) -> StreamFull:
    return StreamFull(f"the store is out of memory: {own_words(refused)}")

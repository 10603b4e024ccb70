"""Redis Streams, the default stream: nothing more to run than the online store.

A group of calls is ONE transaction: Redis applies a transaction as a whole, also when it is started again from its
append-only file, so a call is in the stream or it is not. Streams are never trimmed here; that is for who has read
them (see docs/decisions/0033-back-pressure-of-events.md).

When an entry is safe, by docs/decisions/0032-durable-events.md: with `appendfsync always` a reply comes after the disk
has it. With any other policy WAITAOF would have to say so, and Valkey 9.1 says it too early; so such a server is
refused, unless the settings ask for less.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from inference_server.events.stream import Batch, StreamFailed, StreamFull
from inference_server.store.redis_connections import AbstractConnection, Connections, OutOfMemoryError, ResponseError
from tandem.contract.streams import ENTRY_FIELD, EVENTS, ITEM_CHANGES, stream_key

_STREAMS: Final = (EVENTS, ITEM_CHANGES)
_MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"
_LENGTHS: Final = b"".join(
    b"*2\r\n$4\r\nXLEN\r\n$%d\r\n%b\r\n" % (len(stream_key(name)), stream_key(name)) for name in _STREAMS
)
_ADD: Final = {
    name: b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$%d\r\n%b\r\n"
    % (len(stream_key(name)), stream_key(name), len(ENTRY_FIELD), ENTRY_FIELD)
    for name in _STREAMS
}
"""An XADD as RESP writes it, up to the value: redis-py takes six times as long to pack one."""
_LOCAL_COPIES: Final = 1


class RedisStream:
    """Appends over a connection of its own, which reads of the store never wait behind."""

    def __init__(self, url: str, *, fsync: bool, wait_ms: int) -> None:
        """`url` as redis-py takes it. `fsync`: an entry is safe once the disk has it, instead of once Redis has it.
        `wait_ms` is the longest wait for the disk where the server has to be asked. Raises ValueError for the URL."""
        self._connections = Connections(url)
        self._connection: AbstractConnection | None = None
        self._fsync = fsync
        self._wait_ms = wait_ms
        self._asks_for_disk = False
        self._backlog: dict[str, int] = {}

    @property
    def backlog(self) -> Mapping[str, int]:
        """Entries by stream, those that were applied and not yet trimmed included."""
        return self._backlog

    async def append(self, batches: Sequence[Batch]) -> None:
        """Appends all batches in one transaction."""
        commands = [_MULTI]
        for batch in batches:
            add = _ADD[batch.stream]
            commands += [b"%b$%d\r\n%b\r\n" % (add, len(entry.value), entry.value) for entry in batch.entries]
        num_queued = len(commands) + len(_STREAMS)
        commands += [_LENGTHS, _EXEC]
        async with self._connected() as connection:
            await connection.send_packed_command(commands, check_health=False)
            await _read_queued(connection, num_queued)
            replies = await connection.read_response(disable_decoding=True)
            for reply in replies:
                if isinstance(reply, ResponseError):
                    raise reply
            self._note(replies[-len(_STREAMS) :])
            if self._asks_for_disk:
                await self._wait_for_disk(connection)

    async def probe(self) -> None:
        """Reads how long the streams are, and again how durable the server is: that may be changed while it runs."""
        async with self._connected() as connection:
            await self._look_at_durability(connection)
            await connection.send_packed_command([_LENGTHS], check_health=False)
            self._note([await connection.read_response() for _ in _STREAMS])

    async def close(self) -> None:
        """Ends the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AbstractConnection]:
        """The connection, which is given up when something goes wrong: a late reply would be read as the next one's.

        Raises StreamFailed for whatever the client raises.
        """
        try:
            if self._connection is None:
                self._connection = self._connections.make()
                await self._connection.connect()  # type: ignore[no-untyped-call]
                await self._look_at_durability(self._connection)
            yield self._connection
        except StreamFull:
            raise
        except ResponseError as error:
            await self.close()
            raise StreamFailed(str(error)) from error
        except BaseException as error:
            await self.close()
            if isinstance(error, Exception) and not isinstance(error, StreamFailed):
                raise StreamFailed(repr(error)) from error
            raise

    async def _look_at_durability(self, connection: AbstractConnection) -> None:
        """Raises StreamFailed where the server would answer before the disk has what it answers for."""
        if not self._fsync:
            return
        await connection.send_command("CONFIG", "GET", "append*", check_health=False)
        try:
            reply = await connection.read_response(disable_decoding=True)
        except ResponseError:
            # Managed servers keep their configuration to themselves; what WAITAOF says is all there is then.
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

    def _note(self, lengths: Sequence[int]) -> None:
        self._backlog.update(zip(_STREAMS, lengths, strict=True))


async def _read_queued(connection: AbstractConnection, num_replies: int) -> None:
    """Reads the replies before that of EXEC. Raises StreamFull, or what else a command was refused with."""
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
    except ResponseError:  # EXEC does nothing then, and says so
        if isinstance(refused, OutOfMemoryError):
            raise StreamFull(f"the store is out of memory: {refused}") from refused
        raise refused from None

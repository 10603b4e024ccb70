"""A TCP proxy between the online store and its clients that can damage what it carries."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import Final

_CHUNK_BYTES: Final = 1 << 16


class Damage(Enum):
    """What the proxy does to the bytes of every connection."""

    NONE = "none"
    DELAY = "delay"
    """The store's answers arrive `FaultyProxy.delay_seconds` late."""
    BLACK_HOLE = "black hole"
    """Bytes are dropped; connections stay open, and new ones are accepted."""
    GARBAGE = "garbage"
    """Random bytes arrive in the place of the store's answers."""
    RESET = "reset"
    """Connections are reset, new ones at once."""
    HALF_CLOSE = "half close"
    """The side that answers is closed; the side that asks stays open."""


class FaultyProxy:
    """A proxy to one port of this machine. Made by `faulty_proxy`."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.delay_seconds = 0.2
        self._target_port = target_port
        self._damage = Damage.NONE
        self._clients: set[asyncio.StreamWriter] = set()

    def damage(self, damage: Damage) -> None:
        """Changes what happens to the bytes from now on, on open connections too."""
        self._damage = damage
        if damage is Damage.RESET:
            for writer in self._clients:
                writer.transport.abort()
        elif damage is Damage.HALF_CLOSE:
            for writer in self._clients:
                with suppress(OSError, RuntimeError):
                    writer.write_eof()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one connection until either side closes it."""
        if self._damage is Damage.RESET:
            writer.transport.abort()
            return
        self._clients.add(writer)
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            self._clients.discard(writer)
            writer.close()
            return
        copies = {
            asyncio.create_task(self._copy(reader, target_writer, answers=False)),
            asyncio.create_task(self._copy(target_reader, writer, answers=True)),
        }
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            self._clients.discard(writer)
            writer.close()
            target_writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self._damage is Damage.BLACK_HOLE:
                    continue
                if answers and self._damage is Damage.DELAY:
                    await asyncio.sleep(self.delay_seconds)
                if answers and self._damage is Damage.GARBAGE:
                    data = os.urandom(len(data))
                if answers and self._damage is Damage.HALF_CLOSE:
                    continue
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def faulty_proxy(target_port: int) -> AsyncIterator[FaultyProxy]:
    """Runs a proxy during the block."""
    proxy = FaultyProxy(target_port)
    server = await asyncio.start_server(proxy.carry, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for writer in list(proxy._clients):
            writer.transport.abort()

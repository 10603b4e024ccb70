"""What supervisor and worker say to each other: JSON lines over a Unix socket pair that the worker inherits.

| message           | from       | means                                                              |
| ----------------- | ---------- | ------------------------------------------------------------------ |
| OpenBundle        | supervisor | this folder was checked: open it and serve it                      |
| DependencyChanged | supervisor | a dependency that only the supervisor sees went up or down         |
| BundleRefused     | both       | a bundle was refused: by the check (count it) or while opening it  |
| Listening         | worker     | the ports are bound                                                |
| BundleOpened      | worker     | every request admitted from now on is answered by this bundle      |

The end of the stream is a message too: the worker stops when its supervisor is gone.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import asdict, dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class OpenBundle:
    """Open and serve a checked bundle."""

    directory: str
    registry_version: str
    """The registry's number of the bundle; empty without a registry."""
    variant: str
    """The alias it is served under; empty without a registry."""


@dataclass(frozen=True, kw_only=True)
class DependencyChanged:
    """A dependency went up or down."""

    dependency: str
    up: bool


@dataclass(frozen=True, kw_only=True)
class BundleRefused:
    """A bundle does not serve, and why."""

    registry_version: str
    reason_kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Listening:
    """The worker's ports."""

    grpc_port: int
    http_port: int
    """0: HTTP is not served."""
    metrics_port: int


@dataclass(frozen=True, kw_only=True)
class BundleOpened:
    """The worker answers with this bundle now."""

    registry_version: str
    model_version: str


Message = OpenBundle | DependencyChanged | BundleRefused | Listening | BundleOpened

_TYPES: Final[dict[str, type[Message]]] = {
    cls.__name__: cls for cls in (OpenBundle, DependencyChanged, BundleRefused, Listening, BundleOpened)
}


def to_line(message: Message) -> bytes:
    """A message as it is sent."""
    return json.dumps({"type": type(message).__name__, **asdict(message)}).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """A message as it was received."""
    fields = json.loads(line)
    return _TYPES[fields.pop("type")](**fields)


class ControlChannel:
    """One end of the conversation."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> ControlChannel:
        """Takes over one end of a socket pair."""
        reader, writer = await asyncio.open_unix_connection(sock=end)
        return cls(reader, writer)

    async def send(self, message: Message) -> None:
        """Sends a message. One to an end that is gone is dropped: the receiver of EOF decides what that means."""
        try:
            self._writer.write(to_line(message))
            await self._writer.drain()
        except ConnectionError:
            return

    async def receive(self) -> Message | None:
        """The next message; None once the other end is gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return from_line(line) if line.endswith(b"\n") else None

    async def close(self) -> None:
        """Closes this end."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return

"""`<data dir>/control.sock`: how `python -m inference_server rollback` reaches the server of the same data folder.

A request is one line of JSON; a reply is lines of JSON until the end of the stream. Only the owner can open the file,
and the owner may stop the server anyway. A signal would need no file, but could not report what was done.

The socket carries operators' commands. The messages in `control/messages.py` do not pass through it: the supervisor and
each worker have a socket pair of their own, which has no path.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import structlog

from inference_server.core.errors import CommandFailed

_log = structlog.get_logger()

_NAME: Final = "control.sock"
_MAX_LINE_BYTES: Final = 4096
_LINE_SECONDS: Final = 10.0
"""Time for a request to arrive."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of an operator."""

    name: str
    """"rollback", "forget-refusals", "shadow", or one of `canary_commands.CANARY_COMMANDS`."""
    to: str | None = None
    """The version to go back to; None: the version that served before."""
    model: str | None = None
    """The alias whose model it is about; None: the server's own."""
    plan: str | None = None
    """Of a canary, as JSON."""
    by: str | None = None
    """Who asks."""
    force: bool = False
    """Whether the gate's verdict is left out."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One step of a command: done, or not possible."""

    done: bool
    text: str


Handler = Callable[[Command], AsyncIterator[str]]
"""Executes a command. Yields a line for each step that is done; raises CommandFailed."""


@contextlib.asynccontextmanager
async def listen_to_operators(data_dir: Path, handle: Handler) -> AsyncIterator[None]:
    """Takes commands while the context is open. Where the data folder cannot hold a socket, the server serves without
    taking commands."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                async with asyncio.timeout(_LINE_SECONDS):
                    line = await reader.readline()
            except ValueError:
                line = b""  # longer than any command
            except TimeoutError:
                writer.close()
                return
            async for reply in _replies(line, handle):
                writer.write(json.dumps(asdict(reply)).encode() + b"\n")
                await writer.drain()
            writer.close()
            await writer.wait_closed()

    try:
        listener = _bind(data_dir)
    except OSError as error:
        _log.warning("no_control_socket", path=str(data_dir / _NAME), reason=str(error))
        yield
        return
    bound = (data_dir / _NAME).stat()
    server = await asyncio.start_unix_server(converse, sock=listener, limit=_MAX_LINE_BYTES)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()
        with contextlib.suppress(OSError):
            if (data_dir / _NAME).stat().st_ino == bound.st_ino:
                (data_dir / _NAME).unlink()


async def ask_server(data_dir: Path, command: Command) -> AsyncIterator[Reply]:
    """Sends a command to the server of a data folder. Raises ConnectionError or FileNotFoundError when none runs."""
    client = socket.socket(socket.AF_UNIX)
    try:
        with _short_path(data_dir) as path:
            client.connect(path)
    except OSError:
        client.close()
        raise
    reader, writer = await asyncio.open_unix_connection(sock=client)
    try:
        writer.write(json.dumps(asdict(command)).encode() + b"\n")
        await writer.drain()
        async for line in reader:
            yield Reply(**json.loads(line))
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _replies(line: bytes, handle: Handler) -> AsyncIterator[Reply]:
    try:
        command = _command(line)
    except (ValueError, TypeError, RecursionError) as error:
        yield Reply(done=False, text=f"not a command: {error}")
        return
    _log.info("operator_command", command=command.name, to=command.to)
    try:
        async for text in handle(command):
            yield Reply(done=True, text=text)
    except CommandFailed as error:
        yield Reply(done=False, text=str(error))


def _command(line: bytes) -> Command:
    """Reads a request. Raises ValueError, TypeError or RecursionError."""
    if not line.endswith(b"\n"):
        raise ValueError(f"a command is one line of at most {_MAX_LINE_BYTES} bytes")
    command = Command(**json.loads(line))
    options = (command.to, command.model, command.plan, command.by)
    if not isinstance(command.name, str) or not all(isinstance(option, str | None) for option in options):
        raise TypeError("name, to, model, plan and by must be texts")
    if not isinstance(command.force, bool):
        raise TypeError("force must be true or false")
    return command


def _bind(data_dir: Path) -> socket.socket:
    """Creates the listening socket. Raises OSError, also when another server already listens there."""
    data_dir.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        with _short_path(data_dir) as path:
            _remove_abandoned(path)
            # A chmod after bind would leave a moment in which anyone could connect.
            mask = os.umask(0o177)
            try:
                listener.bind(path)
            finally:
                os.umask(mask)
            listener.listen()
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _remove_abandoned(path: str) -> None:
    """Removes the socket of a server that was killed."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise FileExistsError("another server with the same data folder listens there")


@contextlib.contextmanager
def _short_path(data_dir: Path) -> Iterator[str]:
    """Gives the socket a short path through an open folder: an address may have at most 107 bytes, `data_dir` any
    length."""
    folder = os.open(data_dir, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{_NAME}"
    finally:
        os.close(folder)

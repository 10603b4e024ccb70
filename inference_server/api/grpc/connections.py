"""The sockets of a gRPC server, taken out of gRPC's hands while the server stops (`drain.py` says why). Linux only.

gRPC has no call that closes its listeners alone, that stops reading, or that keeps a connection open after its last
GOAWAY. All three are done from outside, by the numbers of its open files.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import termios
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference_server.core.listeners import has_waiting_connections

_ACCEPT_SECONDS: Final = 0.05
"""How long a listening socket stays open for connections that gRPC has not accepted: closing it would reset them."""
_NO_BYTES: Final = 1 << 30
"""SO_RCVLOWAT that no connection reaches; the kernel reduces it to what its buffers hold."""
_CHECK_SECONDS: Final = 0.005
_READ_BYTES: Final = 1 << 16


def leave_port(port: int) -> None:
    """Closes this process' listening sockets of a port: new connections go to the other processes that share it.

    gRPC keeps their numbers, as sockets that are never used.
    """
    for descriptor, listener in _sockets_of(port):
        with listener:
            if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                _await_accepted(listener)
                with socket.socket() as unused:
                    os.dup2(unused.fileno(), descriptor, inheritable=False)


@dataclass(eq=False)
class _Connection:
    """One connection of a client."""

    descriptor: int
    """gRPC's number of it."""
    client: socket.socket
    """A duplicate, which stays open when gRPC closes its own."""
    from_grpc: socket.socket | None = None
    """The other end of the socket that gRPC has instead, once it is taken over."""

    passed_on: bool = False
    """Whether the client has all that gRPC wrote, and FIN."""

    def pass_on(self) -> bool:
        """Passes on what gRPC has written; FIN too, once gRPC has closed its end. Returns True when it just has."""
        assert self.from_grpc is not None
        try:
            while written := self.from_grpc.recv(_READ_BYTES):
                self.client.sendall(written)
            self.passed_on = True
            self.client.shutdown(socket.SHUT_WR)
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        except BlockingIOError:  # gRPC is still writing
            return False
        except OSError:  # the client has hung up
            self.passed_on = True
            return False
        return True

    def has_hung_up(self) -> bool:
        """Reads and drops what the client has sent. Returns True at its end."""
        try:
            while self.client.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def is_open_at(self, descriptor: int) -> bool:
        """Whether this process has the connection open under a number."""
        try:
            return os.path.sameopenfile(self.client.fileno(), descriptor)
        except OSError:
            return False

    @property
    def num_unread_bytes(self) -> int:
        return int.from_bytes(fcntl.ioctl(self.client, termios.FIONREAD, bytes(4)), "little")


class Connections:
    """The connections of a server that has left its port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: list[_Connection] = []

    def __len__(self) -> int:
        return len(self._connections)

    def freeze(self) -> None:
        """Makes the kernel keep what clients send from now on: gRPC reads nothing more. Call it again for connections
        that were accepted meanwhile."""
        known = {connection.descriptor: connection for connection in self._connections}
        for descriptor, client in _sockets_of(self._port, besides=self._duplicates()):
            if descriptor in known and known[descriptor].is_open_at(client.fileno()):
                client.close()
            else:
                self._connections.append(_Connection(descriptor, client))
        self._set_least_bytes(_NO_BYTES)

    def thaw(self) -> None:
        """Lets gRPC read again."""
        self._set_least_bytes(1)

    @property
    def num_unread_bytes(self) -> int:
        """Bytes that the kernel keeps. While it changes, gRPC is still reading."""
        return sum(connection.num_unread_bytes for connection in self._connections)

    def take_over(self) -> None:
        """Gives gRPC a socket pair in place of each frozen connection. Call it when gRPC has no call in progress."""
        with contextlib.ExitStack() as stack:
            polls = [stack.enter_context(contextlib.closing(poll)) for poll in _polls()]
            for connection in self._connections:
                if not connection.is_open_at(connection.descriptor):  # gRPC has closed it: the client has hung up
                    continue
                try:
                    ours, theirs = socket.socketpair()
                except OSError:  # too many open files: gRPC closes this connection and those after it by itself
                    return
                connection.from_grpc = ours
                with theirs:
                    ours.setblocking(False)
                    theirs.setblocking(False)
                    for poll in polls:
                        # gRPC would take the connection's events for events of the socket that gets its number.
                        with contextlib.suppress(OSError):
                            poll.unregister(connection.descriptor)
                    os.dup2(theirs.fileno(), connection.descriptor, inheritable=False)

    async def say_goodbye(self, *, patience_seconds: float) -> None:
        """Passes on what gRPC wrote at its stop, then waits up to `patience_seconds` for the clients to hang up."""
        speaking = [connection for connection in self._connections if connection.from_grpc is not None]
        listening: list[_Connection] = []
        give_up_at = time.monotonic() + patience_seconds
        while (speaking or listening) and time.monotonic() < give_up_at:
            listening += [connection for connection in speaking if connection.pass_on()]
            speaking = [connection for connection in speaking if not connection.passed_on]
            listening = [connection for connection in listening if not connection.has_hung_up()]
            await asyncio.sleep(_CHECK_SECONDS)

    def close(self) -> None:
        """Closes what is left open."""
        for connection in self._connections:
            connection.client.close()
            if connection.from_grpc is not None:
                connection.from_grpc.close()

    def _duplicates(self) -> set[int]:
        return {connection.client.fileno() for connection in self._connections}

    def _set_least_bytes(self, num_bytes: int) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):  # the client has hung up
                connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, num_bytes)


def _sockets_of(port: int, *, besides: Container[int] = ()) -> Iterator[tuple[int, socket.socket]]:
    """This process' TCP sockets that are bound to a port: number and a duplicate."""
    for descriptor in _descriptors("socket:"):
        if descriptor in besides:
            continue
        try:
            duplicate = socket.socket(fileno=os.dup(descriptor))
        except OSError:  # closed meanwhile
            continue
        try:
            internet = duplicate.family in {socket.AF_INET, socket.AF_INET6}
            if internet and duplicate.type == socket.SOCK_STREAM and duplicate.getsockname()[1] == port:
                yield descriptor, duplicate
                continue
        except OSError:
            pass
        duplicate.close()


def _polls() -> Iterator[select.epoll]:
    """This process' epoll objects, as duplicates."""
    for descriptor in _descriptors("anon_inode:[eventpoll]"):
        with contextlib.suppress(OSError):
            yield select.epoll.fromfd(os.dup(descriptor))


def _descriptors(kind: str) -> Sequence[int]:
    """This process' open files of a kind. A list, made before any of them is duplicated: a duplicate takes a number
    that may stand in the listing too."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith(kind):
                found.append(int(entry.name))
    return found


def _await_accepted(listener: socket.socket) -> None:
    """Waits, for a moment, until nothing waits to be accepted. Blocks: gRPC accepts in a thread of its own."""
    give_up_at = time.monotonic() + _ACCEPT_SECONDS
    while has_waiting_connections(listener) and time.monotonic() < give_up_at:
        time.sleep(0)

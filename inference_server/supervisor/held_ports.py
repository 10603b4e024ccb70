"""A port that all workers share, held by the supervisor.

Workers bind one port each for themselves with SO_REUSEPORT, and the kernel spreads connections over them. The same
option would let a second server take half of the first server's callers without an error. So the supervisor first binds
the port without the option, which fails if any process listens on it or holds it. It then holds the port, bound but not
listening, for as long as it runs.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from inference_server.core.errors import PortUnavailable
from tandem.ops.listening import bind, printed, resolved


@contextlib.contextmanager
def hold_port(host: str, port: int, *, purpose: str) -> Iterator[int]:
    """Holds a port for the processes of this user; port 0 takes any free port. Yields the port number.

    Raises PortUnavailable when another process has the port.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, address = resolved(host, port)
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                # Lingering connections of a server that has just ended do not block the port.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bind(probe, address)
            # Without SO_REUSEADDR here: with it, the probe of a second server would not see this socket.
            holder = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bind(holder, address)
        except OSError as error:
            raise PortUnavailable(f"cannot listen on {printed(host, port)} for {purpose}: {error}") from error
        number: int = holder.getsockname()[1]
        yield number

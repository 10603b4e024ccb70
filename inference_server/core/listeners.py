"""What the kernel knows about a listening socket."""

from __future__ import annotations

import socket
import struct
from typing import Final

_WAITING_AT_LISTENER: Final = struct.Struct("24xI")
"""tcpi_unacked of struct tcp_info: at a listening socket, connections that nobody has accepted yet."""


def has_waiting_connections(listener: socket.socket) -> bool:
    """Whether connections wait to be accepted: closing the listener would reset them."""
    information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING_AT_LISTENER.size)
    return bool(_WAITING_AT_LISTENER.unpack(information)[0])

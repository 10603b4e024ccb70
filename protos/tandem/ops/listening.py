"""Addresses that programs listen on: one reading of a host's name for every port and protocol.

`::` listens on all addresses of IPv6 and of IPv4, whatever the machine's own default is.
"""

from __future__ import annotations

import socket
from typing import Any

Resolved = tuple[socket.AddressFamily, tuple[Any, ...]]


def resolved(host: str, port: int) -> Resolved:
    """The address of a host: a name, an IPv4 address, or an IPv6 address with or without brackets.

    A name that has addresses of both kinds stands for its IPv4 address. Raises OSError if there is none.
    """
    found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def numeric(host: str) -> str:
    """The same as digits, without brackets. Raises OSError."""
    return str(resolved(host, 0)[1][0])


def printed(host: str, port: int) -> str:
    """Host and port as URLs and gRPC write them: an IPv6 address in brackets."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def bind(unbound: socket.socket, address: tuple[Any, ...]) -> None:
    """Binds a socket of the family of `resolved`. Raises OSError."""
    if unbound.family == socket.AF_INET6:
        unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    unbound.bind(address)


def listen(host: str, port: int, *, backlog: int, reuse_port: bool) -> socket.socket:
    """A listening socket; port 0 takes any free port. With `reuse_port` several processes share it. Raises OSError."""
    family, address = resolved(host, port)
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Lingering connections of a server that has just ended do not block the port.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bind(made, address)
        made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made

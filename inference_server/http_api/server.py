"""The HTTP server: uvicorn inside the worker's own event loop, how it starts, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import uvicorn

from inference_server.errors import PortUnavailable, SettingsError

_BACKLOG: Final = 2048
_KEEP_ALIVE_SECONDS: Final = 75
"""Longer than the 60 s after which load balancers give up a connection: whoever closes first must not be the server,
or a request that crosses the close is lost."""
_CLOSING_SECONDS: Final = 1.0
"""What requests that were cancelled get to tell their callers."""


class TlsFiles(Protocol):
    """PEM files of a server that speaks TLS."""

    @property
    def certificate(self) -> Path:
        """The server's certificate, followed by the intermediate ones."""

    @property
    def key(self) -> Path:
        """Its private key, not encrypted."""

    @property
    def client_ca(self) -> Path | None:
        """Callers must present a certificate that one of these authorities has signed; None: they need none."""


class HttpServer:
    """The HTTP server of one worker."""

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        host: str,
        port: int,
        reuse_port: bool = False,
        tls: TlsFiles | None = None,
    ) -> None:
        """Binds the port; 0 takes any free one. With `reuse_port`, several workers share it.

        Raises PortUnavailable, and SettingsError for TLS files that cannot be used.
        """
        context = self.ssl_context = None if tls is None else _context_of(tls)
        """What connections begin with; None: they are not encrypted. Certificates may be replaced in it."""
        self._config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # Below it are only lines that any caller could fill the log with.
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            backlog=_BACKLOG,
            ssl_context_factory=None if context is None else lambda *_: context,
        )
        self._config.load()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=reuse_port)
        except OSError as error:
            raise PortUnavailable(f"cannot listen on {host}:{port} for HTTP: {error}") from error
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(self._config)
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to answer."""
        # The steps of uvicorn.Server.serve, without its signal handlers: the worker has its own.
        self._server.lifespan = self._config.lifespan_class(self._config)
        await self._server.startup(sockets=[self._socket])
        self._ticking = asyncio.create_task(self._server.main_loop(), name="http-ticks")

    async def stop(self, *, grace_seconds: float) -> None:
        """No new connections, requests in flight finished or `grace_seconds` over, the rest cancelled, closed."""
        if self._ticking is None:
            self._socket.close()
            return
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        self._config.timeout_graceful_shutdown = grace_seconds  # type: ignore[assignment]  # passed to asyncio.wait_for
        await self._server.shutdown(sockets=[self._socket])
        state = self._server.server_state
        if state.tasks:
            await asyncio.wait(set(state.tasks), timeout=_CLOSING_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()


def _context_of(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(tls.certificate, tls.key, password="")
        if tls.client_ca is not None:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError is one too
        raise SettingsError(f"the TLS files cannot be used for HTTP: {error}") from error
    return context

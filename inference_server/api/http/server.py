"""The HTTP server: uvicorn inside the worker's own event loop, its start and its shutdown."""

from __future__ import annotations

import asyncio
import fcntl
import ssl
import termios
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import uvicorn

from inference_server.api.http.connections import Connections
from inference_server.api.http.handshake import TlsListener
from inference_server.api.http.limits import HttpLimits, Refusals
from inference_server.api.http.protocol import LimitedProtocol
from inference_server.core.errors import PortUnavailable
from inference_server.core.listeners import has_waiting_connections
from inference_server.security.tls import Certificates
from inference_server.telemetry.statistics import Statistics
from tandem.ops.listening import listen, printed

_BACKLOG: Final = 2048
_DEFAULT_LIMITS: Final = HttpLimits()
_LEAVE_SECONDS: Final = 0.5
"""Time at a shutdown in which the client of an idle connection may send a request, and be told that it is the last."""
_ACCEPT_SECONDS: Final = 0.5
"""Time to accept the connections that wait at the port: to close it would reset them."""
_HANDSHAKE_SECONDS: Final = 3.0
"""Time for connections that were accepted to end their TLS handshake; their callers believe that they are connected."""
_CHECK_SECONDS: Final = 0.01
_CLOSING_SECONDS: Final = 1.0
"""Time in which cancelled requests may answer their callers."""


class HttpServer:
    """The HTTP server of one worker."""

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        host: str,
        port: int,
        statistics: Statistics,
        limits: HttpLimits = _DEFAULT_LIMITS,
        reuse_port: bool = False,
        certificates: Certificates | None = None,
    ) -> None:
        """Binds the port; 0 takes any free port. With `reuse_port`, several workers share it.

        With `certificates` it uses TLS, and new connections get the newest certificate. Raises PortUnavailable.
        """
        self._config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # Lower levels have only lines with which any caller could fill the log.
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            **_ssl_options(certificates),
        )
        self._config.load()
        if certificates is not None:
            self._config.ssl = certificates.following_context()
        try:
            self._socket = listen(host, port, backlog=_BACKLOG, reuse_port=reuse_port)
        except OSError as error:
            raise PortUnavailable(f"cannot listen on {printed(host, port)} for HTTP: {error}") from error
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(self._config)
        self._connections = Connections(limits, Refusals(statistics))
        self._ticking: asyncio.Task[None] | None = None
        self._accepting: tuple[asyncio.Task[None], ...] = ()
        self._tls_listener: TlsListener | None = None
        self._helping: tuple[asyncio.Task[None], ...] = ()

    async def start(self) -> None:
        """Begins to answer."""
        # The steps of uvicorn.Server.serve, without its signal handlers and its listener: the worker has its own.
        self._server.lifespan = self._config.lifespan_class(self._config)
        protocol = partial(LimitedProtocol, self._config, self._server.server_state, self._connections)
        self._server.servers = []
        if self._config.ssl is None:
            loop = asyncio.get_running_loop()
            self._server.servers = [await loop.create_server(protocol, sock=self._socket, backlog=_BACKLOG)]
        else:
            self._tls_listener = TlsListener(self._socket, self._config.ssl, protocol, self._connections)
            self._accepting = (asyncio.create_task(self._tls_listener.run(), name="http-accepts"),)
        self._helping = (asyncio.create_task(self._connections.keep_deadlines(), name="http-deadlines"),)
        self._ticking = asyncio.create_task(self._server.main_loop(), name="http-ticks")

    async def stop(self, *, grace_seconds: float) -> None:
        """Refuses new connections, waits up to `grace_seconds` for requests in flight, cancels the rest, and closes.

        Answers say `connection: close` meanwhile. A connection without a request is closed after a pause in which its
        client may send one more and be told so: a request that crosses the close would be lost.
        """
        if self._ticking is None:
            self._socket.close()
            return
        give_up_at = time.monotonic() + grace_seconds
        ticking, self._ticking = self._ticking, None
        await _cancelled(ticking)
        await self._leave_port()
        await self._let_go(give_up_at)
        left_seconds = max(0.0, give_up_at - time.monotonic())
        self._config.timeout_graceful_shutdown = left_seconds  # type: ignore[assignment]  # passed to asyncio.wait_for
        await self._server.shutdown()
        state = self._server.server_state
        if state.tasks:
            await asyncio.wait(set(state.tasks), timeout=_CLOSING_SECONDS)
        self._connections.abort_all()
        await _cancelled(*self._helping)

    async def _leave_port(self) -> None:
        accepted_at = time.monotonic() + _ACCEPT_SECONDS
        while time.monotonic() < accepted_at:
            if not has_waiting_connections(self._socket):
                break
            await asyncio.sleep(0)
        for server in self._server.servers:
            server.close()
        await _cancelled(*self._accepting)
        self._socket.close()

    async def _let_go(self, give_up_at: float) -> None:
        """Makes clients leave, and closes connections that stay without a request."""
        state = self._server.server_state
        # uvicorn adds these to each answer, and closes the connection of an answer that says close.
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        for connection in list(state.connections):
            if not _is_idle(connection):
                connection.shutdown()  # its answer will be the last one
        shaken_at = min(time.monotonic() + _HANDSHAKE_SECONDS, give_up_at)
        # A connection whose handshake ends meanwhile has the same pause for its first request.
        leaves_at: dict[Any, float] = {}
        while time.monotonic() < give_up_at:
            now = time.monotonic()
            leaves_at = {
                connection: leaves_at.get(connection, now + _LEAVE_SECONDS) for connection in list(state.connections)
            }
            due = [connection for connection, leave_at in leaves_at.items() if now >= leave_at]
            idle = [connection for connection in due if _is_idle(connection)]
            may_come = self._tls_listener is not None and self._tls_listener.is_shaking_hands and now < shaken_at
            if len(due) == len(leaves_at) and not idle and not may_come:
                return
            for connection in idle:
                if not _has_unread_bytes(connection):
                    connection.shutdown()
            await asyncio.sleep(_CHECK_SECONDS)


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _is_idle(connection: Any) -> bool:
    """Whether a connection of uvicorn has no request in progress."""
    cycle = connection.cycle
    return cycle is None or cycle.response_complete


def _has_unread_bytes(connection: Any) -> bool:
    descriptor = connection.transport.get_extra_info("socket").fileno()
    try:
        return fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)) != bytes(4)
    except OSError:  # it has just been closed
        return False


def _ssl_options(certificates: Certificates | None) -> dict[str, Any]:
    if certificates is None:
        return {}
    files = certificates.files
    return {
        "ssl_certfile": files.certificate,
        "ssl_keyfile": files.key,
        "ssl_keyfile_password": "",
        "ssl_ca_certs": files.client_ca,
        "ssl_cert_reqs": ssl.CERT_NONE if files.client_ca is None else ssl.CERT_REQUIRED,
    }

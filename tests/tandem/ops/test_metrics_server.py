"""The port of metrics and health under callers who do not behave."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tandem.ops import metrics_server
from tandem.ops.metrics_server import MAX_CONNECTIONS, MetricsServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process


def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    running = MetricsServer(answer, host="127.0.0.1", port=0)
    yield running
    running.close()


def get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n"])
def test_idle_connections_keep_nobody_waiting_and_few_threads(server: MetricsServer, sent: bytes) -> None:
    threads_before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(100):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            idle.sendall(sent)
        assert get(server.port) == b"/healthz"
        wait_until(lambda: threading.active_count() <= threads_before + MAX_CONNECTIONS, "old threads have ended")
    wait_until(lambda: threading.active_count() <= threads_before, "all threads have ended")


def test_a_connection_that_sends_a_byte_now_and_then_is_ended(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "CONNECTION_SECONDS", 1.0)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.settimeout(0.1)

        def has_ended() -> bool:
            try:
                slow.sendall(b"G")
                return slow.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(has_ended, "the server has ended the connection")


def test_endless_headers_are_refused(server: MetricsServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as endless:
        endless.sendall(b"GET / HTTP/1.1\r\n")
        header = b"a:" + b"b" * 60_000 + b"\r\n"
        with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
            endless.sendall(2000 * header)
    assert get(server.port) == b"/healthz"


def test_closing_does_not_wait_for_callers() -> None:
    running = MetricsServer(answer, host="127.0.0.1", port=0)
    with socket.create_connection(("127.0.0.1", running.port)):
        started = time.monotonic()
        running.close()
        assert time.monotonic() - started < metrics_server.CONNECTION_SECONDS


def test_a_taken_port_is_an_error(server: MetricsServer) -> None:
    with pytest.raises(OSError, match="in use"):
        MetricsServer(answer, host="127.0.0.1", port=server.port)

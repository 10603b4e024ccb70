"""SIGTERM ends the service within its grace period, whatever does not answer; no other signal ends it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import LIMIT_SECONDS

pytestmark = pytest.mark.process

GRACE_SECONDS = 20.0
MARGIN_SECONDS = 20.0
"""For a busy test machine; the service itself needs none."""


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        yield f"127.0.0.1:{silent.getsockname()[1]}"


@contextmanager
def service(folder: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    environment |= {f"TANDEM_{name.upper()}": value for name, value in settings.items()}
    environment |= {"TANDEM_DATA_DIR": str(folder), "TANDEM_SYNC_METRICS_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "feature_sync", "run"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def log(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("{") and (fields := json.loads(line))["event"] == event:
            return dict(fields)
    raise AssertionError(f"the service ended before {event}")


def test_sigterm_ends_it_in_time_while_store_and_registry_are_silent(tmp_path: Path, black_hole: str) -> None:
    with service(tmp_path, store_url=f"redis://{black_hole}/0", registry_uri=f"http://{black_hole}") as process:
        log(process, "started")
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
        time.sleep(1.0)
        assert process.poll() is None
        asked_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert log(process, "stopping")["reason"] == "SIGTERM"
        assert process.wait(LIMIT_SECONDS) == 0
        assert time.monotonic() - asked_at < GRACE_SECONDS + MARGIN_SECONDS

"""`feature_sync run` as a process: killed, stopped, without its store, with its port taken."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import redis

from deploy.local.ports import free_port
from tandem.contract.streams import EVENTS, applied_key, stream_key
from tests.feature_sync.conftest import read_json_lines
from tests.feature_sync.ledger import Ledger
from tests.feature_sync.test_program import running_store
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

NUM_KILLS = 20
WEIGHTS = {"click": 1.0, "purchase": 5.0}


class Program:
    """The program with fixed settings, which may be started several times."""

    def __init__(self, folder: Path, store_url: str, **settings: object) -> None:
        self.folder = folder
        self.metrics_port = free_port()
        self.variables = {
            **os.environ,
            "TANDEM_STORE_URL": store_url,
            "TANDEM_DATA_DIR": str(folder),
            "TANDEM_REGISTRY_URI": f"sqlite:///{folder}/no-registry.db",
            "TANDEM_SYNC_METRICS_PORT": str(self.metrics_port),
            "TANDEM_TAKEOVER_SECONDS": "0.2",
            "TANDEM_ARCHIVE_ROWS": "500",
            # Long enough that nothing decays during a test.
            "TANDEM_TRENDING_HALF_LIFE_SECONDS": "1e9",
            "TANDEM_TRENDING_WEIGHTS": json.dumps(WEIGHTS),
            **{f"TANDEM_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.log_path = folder / "run.log"

    def start(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "feature_sync", "run"], env=self.variables, stderr=log)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Runs the program during the block; it must then exit with status 0 on SIGTERM."""
        process = self.start()
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0, self.log_path.read_text()
        finally:
            process.kill()
            process.wait(timeout=30)

    def logs(self) -> list[dict[str, object]]:
        return read_json_lines(self.log_path.read_text())

    def metric(self, name: str) -> float | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except (urllib.error.URLError, OSError):
            return None
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), None)


@pytest.fixture
def client(store_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(store_url, protocol=2) as client:
        yield client


def is_drained(client: redis.Redis) -> bool:
    return client.xlen(stream_key(EVENTS)) == 0


def check_all(ledger: Ledger, folder: Path) -> None:
    ledger.check_states()
    ledger.check_item_counters()
    ledger.check_archive(folder / EVENTS)
    ledger.check_dead_letters()


def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path: Path, store_url: str, client: redis.Redis) -> None:
    program = Program(tmp_path, store_url, archive_seconds=0.2, batch_entries=100)
    moments = random.Random(1)
    ledger = Ledger(client, events_per_second=2_000)
    ledger.start()
    try:
        for _ in range(NUM_KILLS):
            process = program.start()
            before = len(ledger.events) - client.xlen(stream_key(EVENTS))
            wait_until(
                lambda before=before: len(ledger.events) - client.xlen(stream_key(EVENTS)) > before,
                "events are applied",
            )
            time.sleep(moments.uniform(0.0, 0.4))
            process.kill()
            assert process.wait(timeout=30) == -signal.SIGKILL
    finally:
        ledger.stop()
    with program.running():
        wait_until(lambda: is_drained(client), "the backlog is applied")
        wait_until(lambda: ledger.trends(WEIGHTS), "the trending scores are sums over all events")
    assert len(ledger.events) > 5_000
    assert ledger.num_appended > len(ledger.events)
    check_all(ledger, tmp_path)
    assert "entries_taken_over" in {line["event"] for line in program.logs()}


def test_the_store_goes_away_and_comes_back(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    program = Program(tmp_path, url, archive_seconds=0)
    with program.running(), redis.Redis.from_url(url, protocol=2) as client:
        wait_until(lambda: program.metric('tandem_sync_up{stream="events"}') == 0.0, "the program waits for the store")
        ledger = Ledger(client, events_per_second=2_000)
        for _ in range(2):
            with running_store(program.variables) as (store, _):
                ledger.append(2_000)
                wait_until(
                    lambda: program.metric('tandem_sync_up{stream="events"}') == 1.0, "the program found the store"
                )
                store.send_signal(signal.SIGTERM)
                assert store.wait(timeout=30) == 0
                wait_until(
                    lambda: program.metric('tandem_sync_up{stream="events"}') == 0.0, "the program lost the store"
                )
        with running_store(program.variables):
            wait_until(lambda: is_drained(client), "everything is applied")
            wait_until(lambda: client.xlen(applied_key(EVENTS)) == 0, "everything is archived")
            check_all(ledger, tmp_path)
    changes = [line["event"] for line in program.logs() if line.get("stream") == EVENTS]
    changes = [event for event in changes if event in {"waiting", "consuming"}]
    assert len(changes) >= 6
    assert all(state != next_state for state, next_state in pairwise(changes)), "each change is logged once"


def test_health_and_metrics(tmp_path: Path, store_url: str, client: redis.Redis) -> None:
    program = Program(tmp_path, store_url)
    with program.running():
        wait_until(lambda: program.metric("tandem_sync_up") == 1.0, "the program consumes")
        Ledger(client, events_per_second=1).append(100)
        wait_until(lambda: is_drained(client), "the events are applied")
        wait_until(lambda: program.metric('tandem_sync_lag_entries{stream="events"}') == 0.0, "the lag is 0")
        assert (program.metric('tandem_sync_applied_total{stream="events",type="click"}') or 0) > 0
        with urllib.request.urlopen(f"http://127.0.0.1:{program.metrics_port}/healthz", timeout=5) as answer:
            assert (answer.status, answer.read()) == (200, b"ok\n")


def test_a_taken_port_is_an_error(tmp_path: Path, store_url: str) -> None:
    program = Program(tmp_path, store_url)
    with program.running():
        wait_until(lambda: program.metric("tandem_sync_up") is not None, "the program listens")
        second = program.start()
        assert second.wait(timeout=30) == 1
    assert "TANDEM_SYNC_METRICS_PORT: cannot listen on" in program.log_path.read_text()

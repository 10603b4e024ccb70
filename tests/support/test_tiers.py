"""The guard: a test without a marker starts nothing."""

from __future__ import annotations

import multiprocessing
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable

import grpc
import pytest

from tests.support.tiers import NotAUnitTestError


def _start_a_subprocess() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def _start_with_multiprocessing() -> None:
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()


def _bind_a_port() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))


def _make_a_grpc_server() -> None:
    grpc.server(None)


def _open_a_database() -> None:
    sqlite3.connect(":memory:").close()


STARTS = (_start_a_subprocess, _start_with_multiprocessing, _bind_a_port, _make_a_grpc_server, _open_a_database)


@pytest.mark.parametrize("start", STARTS)
def test_without_a_marker_it_is_refused(start: Callable[[], None]) -> None:
    with pytest.raises(NotAUnitTestError, match="mark it `process`"):
        start()


@pytest.mark.process
@pytest.mark.parametrize("start", STARTS)
def test_with_the_marker_it_is_done(start: Callable[[], None]) -> None:
    start()


@pytest.fixture
def database() -> None:
    with pytest.raises(NotAUnitTestError):
        _open_a_database()


def test_fixtures_count_as_the_test_that_asks_for_them(database: None) -> None:
    pass

"""A hundredth of the fuzz run over HTTP: no request is answered with 500, and the server's memory does not grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.http_requests import Requests
from tests.fuzz.http_run import fuzz_http
from tests.fuzz.outcome import assert_unharmed, fuzzed_server

NUM_REQUESTS = 500
MAX_SECONDS = 20.0


def test_a_seed_fixes_the_requests() -> None:
    first, second, other = ([supply.request() for _ in range(100)] for supply in map(Requests, (1, 1, 2)))
    assert first == second != other


@pytest.mark.process
async def test_no_request_is_answered_as_a_fault_of_the_server(tmp_path: Path) -> None:
    async with fuzzed_server(tmp_path) as server:
        outcome = await fuzz_http(
            server.http_port,
            num_requests=NUM_REQUESTS,
            seed=7,
            server_pid=server.process.pid,
            max_seconds=MAX_SECONDS,
        )
        assert_unharmed(server, outcome)
        assert {200, 400, 404, 405} <= set(outcome.statuses)

"""A hundredth of the fuzz run over HTTP: no request is answered with 500, and the server's memory does not grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.http_requests import Requests
from tests.fuzz.http_run import fuzz_http
from tests.support.serving import serve, valkey
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

NUM_REQUESTS = 500
MAX_SECONDS = 20.0
MAX_GROWTH_BYTES = 64 << 20
"""In the second half of the run; allocators give some memory back only later."""


def test_a_seed_fixes_the_requests() -> None:
    first, second, other = ([supply.request() for _ in range(100)] for supply in map(Requests, (1, 1, 2)))
    assert first == second != other


@pytest.mark.process
async def test_no_request_is_answered_as_a_fault_of_the_server(tmp_path: Path) -> None:
    bundle = build_tiny_bundle(tmp_path / "bundle", TinySpec())
    async with (
        valkey(tmp_path / "store") as store,
        serve(tmp_path / "data", bundle_path=bundle.directory, store_url=store.url, deadline_ms=20_000) as server,
    ):
        outcome = await fuzz_http(
            server.http_port,
            num_requests=NUM_REQUESTS,
            seed=7,
            server_pid=server.process.pid,
            max_seconds=MAX_SECONDS,
        )
        assert not outcome.faults
        assert outcome.growth_bytes < MAX_GROWTH_BYTES
        assert {200, 400, 404, 405} <= set(outcome.statuses)
        assert not server.unparsed, "every line of the log is JSON"
        assert not [line for line in server.logs if "exception" in line], "no stack trace"

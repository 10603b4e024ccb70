"""A hundredth of the fuzz run over gRPC: no call ends as a fault of the server, and its memory does not grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.grpc_messages import Messages
from tests.fuzz.grpc_run import fuzz
from tests.support.serving import serve, valkey
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

NUM_MESSAGES = 5_000
MAX_SECONDS = 45.0
MAX_GROWTH_BYTES = 64 << 20
"""In the second half of the run; allocators give some memory back only later."""


def test_a_seed_fixes_the_messages() -> None:
    first, second, other = (
        [(method.path, supply.payload(method)) for method in (supply.method() for _ in range(100))]
        for supply in (Messages(1), Messages(1), Messages(2))
    )
    assert first == second != other


@pytest.mark.process
async def test_no_call_ends_as_a_fault_of_the_server(tmp_path: Path) -> None:
    bundle = build_tiny_bundle(tmp_path / "bundle", TinySpec())
    async with (
        valkey(tmp_path / "store") as store,
        serve(tmp_path / "data", bundle_path=bundle.directory, store_url=store.url, deadline_ms=20_000) as server,
    ):
        outcome = await fuzz(
            f"127.0.0.1:{server.grpc_port}",
            num_messages=NUM_MESSAGES,
            seed=7,
            server_pid=server.process.pid,
            max_seconds=MAX_SECONDS,
        )
        assert not outcome.faults
        assert outcome.growth_bytes < MAX_GROWTH_BYTES
        answered = {method for method, code in outcome.codes if code == "OK"}
        assert {"Recommend", "SimilarItems", "RecommendBatch", "DeleteItems", "UpsertItems", "Check"} <= answered
        assert not server.unparsed, "every line of the log is JSON"
        assert not [line for line in server.logs if "exception" in line], "no stack trace"
        undecodable = [line for line in server.logs if line["event"] == "message_undecodable"]
        kinds = {line["method"] for line in undecodable}
        assert len(undecodable) <= len(kinds) * (2 + outcome.seconds), "one line a second of each method"
        assert "tandem_undecodable_messages_total" in await server.metrics()

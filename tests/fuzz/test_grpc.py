"""A hundredth of the fuzz run over gRPC: no call ends as a fault of the server, and its memory does not grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.grpc_messages import Messages
from tests.fuzz.grpc_run import fuzz
from tests.fuzz.outcome import assert_unharmed, fuzzed_server

NUM_MESSAGES = 5_000
MAX_SECONDS = 45.0


def test_a_seed_fixes_the_messages() -> None:
    first, second, other = (
        [(method.path, supply.payload(method)) for method in (supply.method() for _ in range(100))]
        for supply in (Messages(1), Messages(1), Messages(2))
    )
    assert first == second != other


@pytest.mark.process
async def test_no_call_ends_as_a_fault_of_the_server(tmp_path: Path) -> None:
    async with fuzzed_server(tmp_path) as server:
        outcome = await fuzz(
            f"127.0.0.1:{server.grpc_port}",
            num_messages=NUM_MESSAGES,
            seed=7,
            server_pid=server.process.pid,
            max_seconds=MAX_SECONDS,
        )
        assert_unharmed(server, outcome)
        answered = {method for method, code in outcome.codes if code == "OK"}
        assert {
            "Recommend",
            "RecommendMany",
            "SimilarItems",
            "RecommendBatch",
            "DeleteItems",
            "UpsertItems",
            "Check",
        } <= answered
        undecodable = [line for line in server.logs if line["event"] == "message_undecodable"]
        kinds = {line["method"] for line in undecodable}
        assert len(undecodable) <= len(kinds) * (2 + outcome.seconds), "one line a second of each method"
        assert "tandem_undecodable_messages_total" in await server.metrics()

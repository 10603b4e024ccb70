"""Log lines about requests: their fields, and the data that they never hold."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from typing import Any

import grpc
import pytest
import structlog

from inference_server.telemetry.logs import LibraryLines, log_answered, log_failed
from tandem.ops.secrets import user_digest

PROGRAM = """
from inference_server.telemetry.logs import configure_logging, log_answered, log_failed
configure_logging({level!r}, process="worker")
log_answered(request_id="r1", user_id="anna@example.org", source="RETRIEVED", degraded_reasons=("deadline",),
             milliseconds=1.23456, caller="shop")
try:
    raise RuntimeError("a bug")
except RuntimeError:
    log_failed(request_id="r2", user_id="anna@example.org")
"""


def lines(level: str) -> list[dict[str, Any]]:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(level=level)], capture_output=True, text=True, check=True
    )
    assert "anna" not in result.stderr, "a user's id is in the log"
    return [json.loads(line) for line in result.stderr.splitlines()]


@pytest.mark.process
def test_at_debug_an_answer_is_one_line() -> None:
    answered, failed = lines("debug")
    del answered["timestamp"]
    assert answered == {
        "event": "answered",
        "level": "debug",
        "process": "worker",
        "request_id": "r1",
        "user": hashlib.sha256(b"anna@example.org").hexdigest()[:16],
        "source": "RETRIEVED",
        "degraded_reasons": ["deadline"],
        "milliseconds": 1.235,
        "caller": "shop",
    }
    assert failed["request_id"] == "r2"
    assert "RuntimeError: a bug" in failed["exception"]


@pytest.mark.process
def test_at_info_only_failures_are_logged() -> None:
    assert [line["event"] for line in lines("info")] == ["request_failed"]


def test_anonymous_visitors_have_no_digest() -> None:
    assert user_digest("") == ""
    assert user_digest("\udcff") != user_digest("u")


def test_lines_of_this_process_can_be_captured() -> None:
    with structlog.testing.capture_logs() as logs:
        log_answered(request_id="r", user_id="u", source="POPULAR", degraded_reasons=(), milliseconds=1.0)
        log_failed(request_id="r", user_id="u")
    assert {line["event"] for line in logs} == {"answered", "request_failed"}


def test_a_caller_that_hangs_up_in_the_middle_of_an_answer_is_no_error() -> None:
    def admitted(error: Exception) -> bool:
        line = "raised in core by servicer method [/a/b]"
        record = logging.LogRecord("grpc", logging.ERROR, "f.py", 1, line, (), (type(error), error, None))
        return LibraryLines().admits(record)

    class ExecuteBatchError(grpc.aio.InternalError):
        """As grpcio raises it, in a module of its own."""

    assert not admitted(ExecuteBatchError("Failed execute_batch"))
    assert not admitted(grpc.aio.InternalError("Internal error from Core"))
    assert admitted(grpc.aio.UsageError("a bug of ours"))
    assert admitted(KeyError("a bug of ours"))

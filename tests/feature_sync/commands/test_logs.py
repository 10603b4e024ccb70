"""Log lines of feature_sync: what they never hold."""

from __future__ import annotations

import json

import pytest
import structlog

from feature_sync.commands.cli import _configure_logs


def test_a_traceback_shows_no_local_variables_and_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    _configure_logs("info")

    def fail(user_id: str) -> None:
        raise ValueError(f"{len(user_id)} redis://:s3cret@h:1/0")

    try:
        fail("@".join(["anna", "example.org"]))
    except ValueError:
        structlog.get_logger().exception("part_ended")
    line = json.loads(capsys.readouterr().err)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: 16 redis://h:1/0")
    assert "anna@example.org" not in line["exception"]

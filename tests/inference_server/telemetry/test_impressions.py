"""The impression log: lines, rotation, and disks that are full, gone or come back."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import structlog

from inference_server.telemetry.impressions import NUM_KEPT, ImpressionLog, to_line, worker_path
from tandem.contract.impressions import Impression, ShownArm
from tests.support.serving import wait_until


def impression(number: int = 0, **changes: Any) -> Impression:
    fields: dict[str, Any] = {
        "request_id": f"r{number}",
        "user_id": "u1",
        "scenario": "home",
        "variant": "champion",
        "model_version": "tiny-1",
        "timestamp": 1_790_000_000_250_000,
        "placement": "top",
        "context": {"device": "phone"},
        "policy_fingerprint": "f1",
        "answer_source": "ranked",
        "degraded_reasons": ("ranker_skipped",),
        "assignments": (ShownArm("exp", "b", True),),
        "item_ids": ["a", "b"],
        "sources": ["two_tower", "popularity"],
        "scores": [0.5, 0.25],
        "propensities": [1.0, 0.1],
    }
    return Impression(**{**fields, **changes})


def lines_of(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return worker_path(tmp_path / "impressions.jsonl", 3)


def test_an_answer_is_one_line(path: Path) -> None:
    log = ImpressionLog(path, max_bytes=1 << 20)
    log.write([impression(), impression(1, first_position=20, item_ids=["é\n"], sources=["x"], scores=[1.0],
                                        propensities=[1.0])])  # fmt: skip
    log.write([])
    log.close(timeout_seconds=30)
    first, second = lines_of(path)
    assert path.name == "impressions.jsonl.worker-3"
    assert first == {
        "request_id": "r0",
        "timestamp": 1_790_000_000_250_000,
        "user_id": "u1",
        "scenario": "home",
        "placement": "top",
        "context": {"device": "phone"},
        "model_version": "tiny-1",
        "variant": "champion",
        "policy_fingerprint": "f1",
        "answer_source": "ranked",
        "degraded_reasons": ["ranker_skipped"],
        "assignments": [{"experiment": "exp", "arm": "b", "exposed": True}],
        "items": [
            {"item_id": "a", "position": 0, "source": "two_tower", "score": 0.5, "propensity": 1.0},
            {"item_id": "b", "position": 1, "source": "popularity", "score": 0.25, "propensity": 0.1},
        ],
    }
    assert [(item["item_id"], item["position"]) for item in second["items"]] == [("é\n", 20)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert log.num_dropped == 0


def test_a_restart_appends_and_a_torn_line_spoils_no_other(path: Path) -> None:
    path.write_bytes(to_line(impression()) + b'{"request_id": "torn')
    log = ImpressionLog(path, max_bytes=1 << 20)
    log.write([impression(1)])
    log.close(timeout_seconds=30)
    first, torn, last = path.read_bytes().splitlines()
    assert torn == b'{"request_id": "torn'
    assert [json.loads(line)["request_id"] for line in (first, last)] == ["r0", "r1"]


def test_files_are_set_aside_at_their_size_and_the_newest_kept(path: Path) -> None:
    size = len(to_line(impression(100)))
    log = ImpressionLog(path, max_bytes=2 * size)
    for number in range(100, 120):
        log.write([impression(number)])
    log.close(timeout_seconds=30)
    kept = [path.with_name(f"{path.name}.{number}") for number in range(NUM_KEPT, 0, -1)]
    assert sorted(path.parent.iterdir()) == sorted([path, *kept])
    assert [line["request_id"] for line in lines_of(*kept, path)] == [f"r{number}" for number in range(108, 120)]
    assert all(file.stat().st_size <= 2 * size for file in kept)


async def test_a_full_disk_is_logged_once_and_counted(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")  # every write to it fails: no space is left
    with structlog.testing.capture_logs() as logs:
        log = ImpressionLog(full, max_bytes=1 << 20)
        for number in range(5):
            log.write([impression(number), impression(number)])
        await asyncio.to_thread(log.close, timeout_seconds=30)
    assert log.num_dropped == 10
    assert [line["event"] for line in logs] == ["impressions_not_written"]
    assert "No space left" in logs[0]["reason"]


async def test_a_folder_that_comes_back_is_written_to_again(tmp_path: Path) -> None:
    path = tmp_path / "later" / "impressions"
    with structlog.testing.capture_logs() as logs:
        log = ImpressionLog(path, max_bytes=1 << 20)
        log.write([impression()])
        await wait_until(lambda: log.num_dropped == 1, "the line is lost")
        path.parent.mkdir()
        log.write([impression(1)])
        await asyncio.to_thread(log.close, timeout_seconds=30)
    assert [line["request_id"] for line in lines_of(path)] == ["r1"]
    assert [line["event"] for line in logs] == ["impressions_not_written", "impressions_written_again"]


async def test_what_cannot_be_written_as_json_is_counted_and_the_next_is_written(path: Path) -> None:
    log = ImpressionLog(path, max_bytes=1 << 20)
    log.write([impression(scores=[object(), object()])])
    log.write([impression(scores=[1.0])])  # one score, two items
    log.write([impression(1)])
    await asyncio.to_thread(log.close, timeout_seconds=30)
    assert log.num_dropped == 2
    assert [line["request_id"] for line in lines_of(path)] == ["r1"]


async def test_a_disk_that_hangs_holds_up_neither_requests_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_server.telemetry.impressions._MAX_WAITING", 10)
    pipe = tmp_path / "pipe"  # whose buffer is full after less than one line, and nobody reads
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = ImpressionLog(pipe, max_bytes=1 << 30)
    for number in range(100):
        log.write([impression(number, context={"long": "x" * 1_000_000})])
    assert log.num_dropped >= 89
    async with asyncio.timeout(30):
        await asyncio.to_thread(log.close, timeout_seconds=0.1)
    os.close(reader)

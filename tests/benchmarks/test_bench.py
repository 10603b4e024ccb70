"""The load benchmark runs: a scenario from h2load to the page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is missing: Debian package nghttp2-client")
def test_throughput_is_measured_and_written_down(tmp_path) -> None:
    output = tmp_path / "request-path"
    ended = _run(
        *("--quick", "--scenarios", "throughput", "--output", str(output)), TANDEM_BENCH_DIR=str(tmp_path / "bench")
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(output.with_suffix(".json").read_text())
    medians = report["scenarios"]["throughput"]["medians"]
    tuned = "empty handler, gRPC as in the worker"
    assert list(medians) == ["empty handler", tuned, "tandem ml-1m", "naive ml-1m"]
    assert all(row["full_answers_per_second"] > 0 for row in medians.values())
    assert "A quick run" in output.with_suffix(".md").read_text()


def test_without_h2load_the_package_is_named(tmp_path) -> None:
    ended = _run("--quick", PATH=str(tmp_path))
    assert ended.returncode == 1
    assert "nghttp2-client" in ended.stderr


def test_an_unknown_scenario_is_named() -> None:
    ended = _run("--scenarios", "latency,nonsense")
    assert ended.returncode == 2
    assert "unknown scenarios nonsense" in ended.stderr

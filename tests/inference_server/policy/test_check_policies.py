"""`python -m inference_server check-policies`: its output and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference_server.policy.policy_file import load_policies
from inference_server.request.policy_choices import policy_choices

pytestmark = pytest.mark.process

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy/policies.example.yaml"


def check_policies(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inference_server", "check-policies", *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_good_file_is_shown_in_full() -> None:
    result = check_policies(EXAMPLE)
    assert result.returncode == 0
    assert result.stderr == ""
    shown = json.loads(result.stdout)
    policies = load_policies(EXAMPLE, policy_choices())
    assert list(shown) == ["default", *policies.names]
    assert shown["home"] == policies.policy("home").model_dump(mode="json")


def test_each_mistake_is_a_line_that_begins_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text("default:\n  diversity: 2\n  what: 1\n")
    result = check_policies(path)
    assert result.returncode == 1
    assert [line.rpartition(": ")[0] for line in result.stdout.splitlines()[1:]] == [f"{path}:3: default.what"]
    assert result.stdout.startswith(f"{path}:2: default.diversity: ")
    assert result.stderr == ""


def test_a_missing_file_is_told_without_a_trace(tmp_path: Path) -> None:
    result = check_policies(tmp_path / "none.yaml")
    assert result.returncode == 1
    assert result.stdout == f"{tmp_path}/none.yaml: cannot be read: No such file or directory\n"


def test_the_file_has_to_be_named() -> None:
    assert check_policies().returncode == 2

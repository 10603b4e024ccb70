"""`python -m inference_server check-experiments`: its output and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy/experiments.example.yaml"


def check(*arguments: str | Path, **settings: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return subprocess.run(
        [sys.executable, "-m", "inference_server", "check-experiments", *arguments],
        env=environment | {f"TANDEM_{name.upper()}": str(value) for name, value in settings.items()},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_good_file_is_shown_with_its_shares() -> None:
    result = check(EXAMPLE)
    assert (result.returncode, result.stderr) == (0, "")
    (layer,) = json.loads(result.stdout)["layers"]
    assert (layer["flag"], layer["only_with"]) == ("models", ["holdout off"])
    assert [strategy["percent_of_users"] for strategy in layer["strategies"]] == [100, 20]
    assert [arm["percent"] for arm in layer["strategies"][1]["arms"]] == [25, 25, 50]


def test_each_mistake_is_a_line_that_begins_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "experiments.yaml"
    path.write_text(EXAMPLE.read_text().replace("rollout: 20", "rollout: 120").replace("weight: 500", "weight: 600"))
    result = check(path)
    assert (result.returncode, result.stderr) == (1, "")
    lines = path.read_text().splitlines()
    number = next(index for index, line in enumerate(lines, 1) if "rollout: 120" in line)
    assert result.stdout.splitlines() == [
        f"{path}:{number}: flag models: strategies.1.parameters.rollout: must be a whole number of percent, 0 to "
        "100 (got '120')",
        f"{path}:{number + 1}: flag models: strategies.1.variants: the weights add up to 1100, more than 1000 (100 %)",
    ]


def test_scenarios_are_those_of_the_policies(tmp_path: Path) -> None:
    path, policies = tmp_path / "experiments.yaml", tmp_path / "policies.yaml"
    path.write_text(
        "features: [{name: a, variants: [{name: b, payload: {type: json, value: {experiment: e, scenario: s}}}]}]"
    )
    policies.write_text("scenarios: {s: {}}")
    assert check(path).returncode == 1
    assert check(path, policies_file=policies).returncode == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"unleash_url": "http://127.0.0.1:1/api"}, "TANDEM_UNLEASH_TOKEN_FILE: is needed with TANDEM_UNLEASH_URL"),
        ({"unleash_token_file": "/tmp/x"}, "TANDEM_UNLEASH_TOKEN_FILE: needs TANDEM_UNLEASH_URL too"),
        ({"unleash_url": "127.0.0.1"}, "TANDEM_UNLEASH_URL: must begin with http:// or https://"),
        (
            {"unleash_url": "http://127.0.0.1:1/api", "unleash_token_file": "/tmp/x", "experiments_file": EXAMPLE},
            "TANDEM_UNLEASH_URL: names a second source of experiments; leave TANDEM_EXPERIMENTS_FILE empty",
        ),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], said: str) -> None:
    result = check(EXAMPLE, **settings)
    assert result.returncode == 2
    assert said in result.stderr

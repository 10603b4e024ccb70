"""The command line: help that is complete, mistakes that are named, commands on real data."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.checkerboard import write_checkerboard
from trainer.commands.cli import main, program
from trainer.config.help import config_toml
from trainer.config.train_config import TrainConfig, load_train_config


@pytest.fixture
def environment(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TANDEM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TANDEM_REGISTRY_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("TANDEM_LOG_LEVEL", "error")
    return write_checkerboard(tmp_path / "source")


def _commands() -> dict[str, argparse.ArgumentParser]:
    (commands,) = [action for action in program().parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(commands.choices)


def test_every_option_of_every_command_has_help_with_its_default() -> None:
    for name, parser in _commands().items():
        assert parser.description, name
        for action in parser._actions:
            assert action.help, (name, action.option_strings)
            if action.default and action.default != argparse.SUPPRESS:
                assert "%(default)s" in action.help, (name, action.option_strings)


@pytest.mark.process
def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; from trainer.commands.cli import program; program().parser().format_help(); "
        "print([n for n in ('torch', 'mlflow', 'pandas', 'faiss', 'optuna', 'plotly') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_help_config_is_a_configuration_file(capsys, tmp_path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help-config"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    path = tmp_path / "train.toml"
    path.write_text(printed)
    assert load_train_config(path, {}) == TrainConfig()
    keys = {(section, key) for section, values in tomllib.loads(printed).items() for key in values}
    assert keys == {(section, key) for section, values in TrainConfig().model_dump().items() for key in values}
    assert "# Peak learning rate of AdamW. (above 0)\n" in printed


def test_a_changed_configuration_survives_its_file(tmp_path) -> None:
    config = load_train_config(None, {"fit.loss": "sampled", "ranker.content_weights": "0.1,0.3", "fit.refit": "false"})
    path = tmp_path / "train.toml"
    path.write_text(config_toml(config))
    assert load_train_config(path, {}) == config


def test_help_data_names_every_key(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "--help-data"])
    printed = capsys.readouterr().out
    assert 'interactions.timestamp_unit (default "seconds")' in printed
    assert "reviews (required)" in printed


def test_prepare_then_features(environment, capsys) -> None:
    assert main(["prepare", "--dataset", str(environment), "--split", "random", "--split", "time"]) == 0
    printed = capsys.readouterr().out
    assert "rows kept" in printed
    assert "checkerboard: 60 users, 24 items, 720 interactions" in printed
    folder = Path(json.loads(printed.splitlines()[-1])["prepared"])
    assert (folder / "splits/random-0.parquet").is_file()
    assert (folder / "splits/time.parquet").is_file()
    assert main(["features", "--dataset", str(environment), "--set", "text.encoder=none"]) == 0
    printed = capsys.readouterr().out
    assert "60 users x 24 items, 720 entries, density 50.0000%" in printed
    assert "text: none is read" in printed
    assert "24 items with categories, 2 categories are read" in printed
    assert "content vectors: 24 items, 4 dimensions" in printed


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["train", "--set", "fit.max_epochs=zero"], "override fit.max_epochs: ", 2),
        (["train", "--set", "fit.max_epoch=3"], "did you mean 'max_epochs'", 2),
        (["features", "--set", "nonsense"], "KEY=VALUE", 2),
        (["prepare", "--dataset", "no-such-set"], "no-such-set", 2),
        (["train", "--config", "absent.toml"], "absent.toml: No such file", 2),
        pytest.param(
            ["export", "--model", "7", "--output", "somewhere"],
            "tandem has no version '7'",
            1,
            marks=pytest.mark.process,
        ),
        pytest.param(
            ["export", "--model", "nobody", "--output", "somewhere"],
            "tandem has no alias 'nobody'",
            1,
            marks=pytest.mark.process,
        ),
    ],
)
def test_mistakes_are_named(environment, capsys, arguments, message, status) -> None:
    assert main(arguments) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["trian"], ["evaluate", "--seeds", "0"], ["export"]])
def test_wrong_usage_ends_with_status_2(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.process
def test_without_a_traceback() -> None:
    command = [sys.executable, "-m", "trainer", "train", "--set", "nonsense"]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr

"""Whole studies on data with a known answer, against a real registry and a real SQLite study."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.checkerboard import write_checkerboard
from tests.support.registries import new_registry
from tests.support.waiting import wait_until
from trainer.config.train_config import TrainConfig, load_train_config
from trainer.core.errors import ConfigError
from trainer.core.settings import Settings
from trainer.data.config import DataConfig, load_data_config
from trainer.experiments.tuning.search_space import Choices, FloatRange, IntRange
from trainer.experiments.tuning.study import Study, Trial
from trainer.experiments.tuning.tune import TuneOptions, tune

pytestmark = pytest.mark.slow

SPACE = {
    "fit.learning_rate": FloatRange(1e-3, 2e-2, log=True),
    "towers.num_layers": IntRange(1, 2),
    "towers.history_length": Choices((4, 8)),
}
CONFIG = load_train_config(
    None, {"towers.embedding_dim": "8", "fit.max_epochs": "3", "fit.warmup_epochs": "1", "fit.batch_size": "32"}
)
HEARTBEAT_SECONDS = 1


def options(study: str, **changed: object) -> TuneOptions:
    return TuneOptions(**{"study": study, "num_trials": 3, "space": SPACE, **changed})


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("tuning")
    return Settings(data_dir=folder, registry_uri=new_registry(folder))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataConfig:
    return load_data_config(str(write_checkerboard(tmp_path_factory.mktemp("checkerboard"))), {})


def test_trials_are_runs_below_one_run_and_the_best_becomes_a_file(settings, data) -> None:
    result = tune(data, CONFIG, settings, options("first"))
    assert (result.num_finished, result.num_pruned) == (3, 0)
    assert load_train_config(result.config_file, {}).towers.embedding_dim == CONFIG.towers.embedding_dim
    client = MlflowClient(settings.registry_uri, settings.registry_uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == settings.model_name]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs["tune-first"]
    trials = {name: run for name, run in runs.items() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert trials.keys() == {"trial-0", "trial-1", "trial-2"}
    ndcg = {name: run.data.metrics["validation/ndcg_at_10"] for name, run in trials.items()}
    assert result.best_value == pytest.approx(max(ndcg.values()))
    assert ndcg[f"trial-{result.best_trial}"] == pytest.approx(result.best_value)
    assert parent.data.metrics["validation/ndcg_at_10"] == pytest.approx(result.best_value)
    for run in trials.values():
        assert SPACE.keys() | {"trial", "pruned"} == run.data.params.keys()
        assert {point.step for point in client.get_metric_history(run.info.run_id, "epoch/loss")} == {1, 2, 3}
        assert not [name for name in run.data.metrics if "test" in name]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}

    # The same call again has no trials left; more trials are added to the same run.
    assert tune(data, CONFIG, settings, options("first")) == result
    more = tune(data, CONFIG, settings, options("first", num_trials=4))
    assert more.num_finished + more.num_pruned == 4
    assert more.best_value >= result.best_value
    names = [run.info.run_name for run in client.search_runs([experiment.experiment_id])]
    assert sorted(names) == ["trial-0", "trial-1", "trial-2", "trial-3", "tune-first"]

    with pytest.raises(ConfigError, match="study first was begun with other"):
        tune(data, CONFIG, settings, options("first", space={"fit.learning_rate": FloatRange(1e-3, 1e-1)}))


def test_two_workers_share_a_study(settings, data) -> None:
    result = tune(data, CONFIG, settings, options("shared", num_trials=4, workers=2))
    assert result.num_finished + result.num_pruned == 4
    client = MlflowClient(settings.registry_uri, settings.registry_uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == settings.model_name]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run.info.run_id for run in runs if run.info.run_name == "tune-shared"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]
    assert len(children) == 4
    assert len({run.data.params["fit.learning_rate"] for run in children}) == 4, "workers draw values of their own"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"study": "../elsewhere"}, "elsewhere"),
        ({"study": "x", "num_trials": 0}, "num_trials must be at least 1"),
        ({"study": "x", "workers": 0}, "workers must be at least 1"),
        ({"study": "x", "space": {"no.such": IntRange(1, 2)}}, "no.such"),
    ],
)
def test_wrong_options_are_named(changed, message, settings, data) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(data, TrainConfig(), settings, options(**changed))


def _study(path: Path) -> Study:
    return Study(path, "study", num_startup_trials=2, num_warmup_epochs=1, heartbeat_seconds=HEARTBEAT_SECONDS)


def _heartbeat_age(path: Path) -> int:
    """Whole seconds since the newest heartbeat, by SQLite's clock; -1 before the first."""
    with closing(sqlite3.connect(path)) as database:
        row = database.execute("SELECT strftime('%s', 'now') - strftime('%s', heartbeat) FROM trial_heartbeats")
        (age,) = row.fetchone() or (-1,)
    return int(age)


def test_a_trial_below_the_median_is_pruned(tmp_path) -> None:
    epochs: dict[int, list[int]] = {}

    def objective(trial: Trial) -> float:
        good = trial.number < 2
        for epoch in range(1, 5):
            epochs.setdefault(trial.number, []).append(epoch)
            trial.report(epoch, 1.0 if good else 0.1)
        return 1.0

    study = _study(tmp_path / "study.db")
    study.run(SPACE, 3, objective, seed=0)
    assert epochs == {0: [1, 2, 3, 4], 1: [1, 2, 3, 4], 2: [1, 2]}
    assert study.num_trials() == (2, 1)
    assert study.best().number in {0, 1}


def test_an_error_of_an_objective_ends_the_run(tmp_path) -> None:
    study = _study(tmp_path / "study.db")

    def broken(trial: Trial) -> float:
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        study.run(SPACE, 3, broken, seed=0)
    assert study.num_trials() == (0, 0)
    assert study.best() is None


def _hang(path: Path) -> None:
    def objective(trial: Trial) -> float:
        path.with_suffix(".begun").write_text(repr(trial.values["fit.learning_rate"]))
        time.sleep(600)
        return 0.0

    _study(path).run(SPACE, 1, objective, seed=0)


def test_the_trial_of_a_killed_process_is_run_again(tmp_path) -> None:
    path = tmp_path / "study.db"
    process = multiprocessing.get_context("spawn").Process(target=_hang, args=(path,))
    process.start()
    begun = path.with_suffix(".begun")
    while not (begun.exists() and begun.read_text()):
        assert process.is_alive()
        time.sleep(0.05)
    wait_until(lambda: _heartbeat_age(path) >= 0, "a heartbeat is written")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    study = _study(path)
    tried: list[str] = []

    def objective(trial: Trial) -> float:
        tried.append(repr(trial.values["fit.learning_rate"]))
        return 0.5

    wait_until(lambda: _heartbeat_age(path) > 2 * HEARTBEAT_SECONDS, "the killed process counts as dead")
    study.run(SPACE, 1, objective, seed=0)
    assert tried == [begun.read_text()]
    assert study.num_trials() == (1, 0)

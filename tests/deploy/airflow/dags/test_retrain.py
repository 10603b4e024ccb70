"""Decisions of the DAG `retrain`, in a real Airflow, with a stub program that only records its arguments.

`tests/end_to_end/test_retrain.py` runs the DAG with the real programs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.airflow.airflow_runs import Airflow, needs_airflow

WEDNESDAY, SUNDAY = "2026-11-25T02:30:00", "2026-11-22T02:30:00"
PROGRAM = """#!/bin/sh
shift
echo "$@" >> "$FOLDER/$NIGHT"
case "$1 $2" in
  "trainer prepare") echo 'a report'; echo '{"prepared": "/data/with a space"}' ;;
  "trainer drift") echo '{"drifted": false, "registry_version": "1"}' ; exit ${DRIFT_STATUS:-0} ;;
  "trainer train") echo '{"registry_version": "2", "model_version": "two"}' ; exit ${TRAIN_STATUS:-0} ;;
  "trainer validate") echo '{"passed": true}' ; exit ${VALIDATE_STATUS:-0} ;;
  "feature_sync attribute") echo '{}' ; exit ${ATTRIBUTE_STATUS:-0} ;;
  *) echo '{}' ;;
esac
echo 'a warning that comes late' >&2
"""

pytestmark = [needs_airflow, pytest.mark.process]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def airflow(folder) -> Airflow:
    program = folder / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    (folder / "data" / "events").mkdir(parents=True)
    return Airflow(
        folder / "home",
        {
            "FOLDER": str(folder),
            "TANDEM_DATA_DIR": str(folder / "data"),
            "TANDEM_NIGHTLY_PYTHON": str(program),
            "TANDEM_NIGHTLY_DATA": "--dataset 'my shop.toml'",
        },
    )


def test_a_night_whose_drift_report_fails_trains_incrementally(airflow, folder) -> None:
    done = airflow.test_dag(WEDNESDAY, NIGHT="on", DRIFT_STATUS="1")
    assert done.returncode == 0, done.stdout
    assert (folder / "on").read_text().splitlines() == [
        f"trainer prepare --dataset my shop.toml --events {folder}/data/events --until 2026-11-25T00:00:00+00:00",
        "trainer drift --prepared /data/with a space",
        "trainer train --prepared /data/with a space --warm-start --no-promote --baselines popularity",
        "trainer validate 2 --prepared /data/with a space",
        "trainer promote 2",
        "feature_sync publish --prepared /data/with a space",
        "deploy.nightly wait two",
    ]


def test_a_sunday_candidate_that_the_gate_refuses_is_not_deployed(airflow, folder) -> None:
    done = airflow.test_dag(SUNDAY, NIGHT="refused", VALIDATE_STATUS="3")
    assert done.returncode == 0, done.stdout
    *_, train, validate = (folder / "refused").read_text().splitlines()
    assert train == "trainer train --prepared /data/with a space --no-promote --baselines popularity"
    assert validate.startswith("trainer validate 2")


def test_a_training_that_fails_ends_the_run(airflow, folder) -> None:
    done = airflow.test_dag("2026-11-24T02:30:00", NIGHT="failed", TRAIN_STATUS="1")
    assert done.returncode != 0
    assert "trainer train ended with status 1" in done.stdout
    assert (folder / "failed").read_text().splitlines()[-1].startswith("trainer train")


def test_a_report_that_fails_fails_the_run_and_stops_nothing(airflow, folder) -> None:
    """A report is written where feature_sync has kept impressions."""
    (folder / "shown" / "impressions").mkdir(parents=True)
    shown = {"TANDEM_DATA_DIR": str(folder / "shown"), "ATTRIBUTE_STATUS": "1"}
    done = airflow.test_dag("2026-11-23T02:30:00", NIGHT="shown-commands", **shown)
    assert done.returncode != 0
    assert "feature_sync attribute ended with status 1" in done.stdout
    commands = (folder / "shown-commands").read_text().splitlines()
    assert "feature_sync attribute" in commands
    assert commands[-1] == "deploy.nightly wait two"

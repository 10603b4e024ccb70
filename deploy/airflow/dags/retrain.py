"""The DAG `retrain`: every night from new events to a served model. A task that fails leaves the champion serving.

    ingest >> drift >> choose >> (train_on | train_in_full) >> validate >> deploy: promote >> publish >> serve
    attribute

Tasks are the commands of `deploy.nightly.steps`, in the project's own environment: Airflow's environment has none of
our packages. A run takes the events of the days that ended before the end of its data interval. These never change, so
that a run that is cleared or backfilled gives the same result.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, TaskGroup, task
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from airflow.timetables.interval import CronDataIntervalTimetable

PROJECT = Path(os.environ.get("TANDEM_NIGHTLY_PROJECT") or Path(__file__).resolve().parents[3])
PYTHON = os.environ.get("TANDEM_NIGHTLY_PYTHON") or str(PROJECT / ".venv" / "bin" / "python")
sys.path[:0] = [str(PROJECT), str(PROJECT / "protos")]

from deploy.nightly import steps  # noqa: E402
from deploy.nightly.settings import load_settings  # noqa: E402

SETTINGS = load_settings()
RETRIES = int(os.environ.get("TANDEM_NIGHTLY_RETRIES") or 2)
UNTIL = "{{ data_interval_end.start_of('day').isoformat() }}"
PREPARED = "{{ ti.xcom_pull(task_ids='ingest')['prepared'] }}"
CANDIDATE = "(ti.xcom_pull(task_ids='train_on') or ti.xcom_pull(task_ids='train_in_full'))"
VERSION = f"{{{{ {CANDIDATE}['registry_version'] }}}}"
MODEL_VERSION = f"{{{{ {CANDIDATE}['model_version'] }}}}"


class Step(BaseOperator):
    """A command of the programs. Other tasks pull the JSON object in the last line of its output.

    BashOperator would take the last line of stdout and stderr together, where a warning may follow the result, and
    needs a shell.
    """

    template_fields: Sequence[str] = ("arguments",)

    def __init__(self, *, arguments: steps.Command, **options: Any) -> None:
        super().__init__(**options)
        self.arguments = arguments
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> dict[str, Any]:  # noqa: ARG002 - what Airflow calls
        """Runs the command. If the gate refuses the candidate, the later tasks are skipped."""
        path = os.pathsep.join([str(PROJECT), str(PROJECT / "protos")])
        self._process = subprocess.Popen(
            [PYTHON, "-m", *self.arguments],
            env={**os.environ, "PYTHONPATH": path},
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # processes that the command starts end with it
        )
        line = ""
        for line in self._process.stdout or ():
            self.log.info(line.rstrip())
        status = self._process.wait()
        if self.task_id == "validate" and status == steps.EXIT_REFUSED:
            raise AirflowSkipException("the gate refused the candidate, and the champion serves on")
        if status != 0:
            raise AirflowException(f"{' '.join(self.arguments[:2])} ended with status {status}")
        result: dict[str, Any] = json.loads(line)
        return result

    def on_kill(self) -> None:
        """The command ends with its task."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)


@task.branch(trigger_rule="all_done")
def choose(ti: Any, data_interval_end: datetime) -> str:
    """A failed `drift` does not stop the run; without ingested data there is nothing to train on."""
    if ti.xcom_pull(task_ids="ingest") is None:
        raise AirflowException("ingest did not succeed")
    found = ti.xcom_pull(task_ids="drift")
    return "train_in_full" if steps.train_in_full(found, data_interval_end, SETTINGS.full_weekday) else "train_on"


with DAG(
    dag_id="retrain",
    description="From new events to a served model",
    schedule=CronDataIntervalTimetable("30 2 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    # A missed night is in the next night's data.
    catchup=False,
    # Two trainings would race for the alias.
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12),
    default_args={
        "retries": RETRIES,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(hours=1),
    },
    tags=["tandem"],
    doc_md=__doc__,
):
    ingest = Step(task_id="ingest", arguments=steps.ingest(SETTINGS, until=UNTIL))
    drift = Step(task_id="drift", arguments=steps.drift(PREPARED), retries=min(RETRIES, 1))
    train_on = Step(
        task_id="train_on",
        arguments=steps.train(SETTINGS, PREPARED, full=False),
        execution_timeout=timedelta(hours=3),
    )
    train_in_full = Step(
        task_id="train_in_full",
        arguments=steps.train(SETTINGS, PREPARED, full=True),
        execution_timeout=timedelta(hours=8),
    )
    validate = Step(
        task_id="validate",
        arguments=steps.validate(SETTINGS, VERSION, PREPARED),
        trigger_rule="none_failed_min_one_success",
    )
    with TaskGroup("deploy") as deploy:
        promote = Step(task_id="promote", arguments=steps.promote(VERSION))
        publish = Step(task_id="publish", arguments=steps.publish(PREPARED))
        serve = Step(task_id="serve", arguments=steps.serve(MODEL_VERSION))
        promote >> publish >> serve
        if SETTINGS.feature_store:
            serve >> Step(task_id="features", arguments=steps.features(PREPARED), retries=min(RETRIES, 1))
    if steps.keeps_impressions(SETTINGS):
        # Nothing waits for it: a report of what was shown says nothing about the next model's data.
        Step(task_id="attribute", arguments=steps.attribute(), retries=min(RETRIES, 1))
    ingest >> drift >> choose() >> [train_on, train_in_full] >> validate >> deploy

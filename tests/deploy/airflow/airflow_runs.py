"""Airflow in its own virtual environment, with its own metadata database in a temporary folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
AIRFLOW = Path(os.environ.get("TANDEM_AIRFLOW_VENV", ROOT / ".venv-airflow")) / "bin" / "airflow"
RUN_SECONDS = 600

needs_airflow = pytest.mark.skipif(not AIRFLOW.exists(), reason=f"{AIRFLOW} does not exist: make airflow-env")


class Airflow:
    """Runs the project's DAGs."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        """Makes the metadata database in the folder `home`."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("TANDEM_", "PYTHON", "COV"))
        }
        self._environment = {
            **inherited,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "deploy" / "airflow" / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "TANDEM_NIGHTLY_RETRIES": "0",
            **environment,
        }
        done = self._run("db", "migrate")
        assert done.returncode == 0, done.stdout

    def test_dag(self, logical_date: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs `airflow dags test retrain`; status 0: the run succeeded. `stdout` also contains stderr."""
        return self._run("dags", "test", "retrain", logical_date, **environment)

    def _run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [AIRFLOW, *arguments],
            env={**self._environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

from __future__ import annotations

import os

import pytest

from tandem.ops.mlflow_environment import set_mlflow_defaults

UNCONDITIONAL = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))


def mlflow_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}


def test_by_default_telemetry_and_printed_urls_are_off() -> None:
    set_mlflow_defaults()
    assert mlflow_variables() == UNCONDITIONAL


def test_the_users_own_values_win() -> None:
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"
    set_mlflow_defaults(max_retries=1, timeout_seconds=5, progress_bars=False, own_logging=False)
    assert mlflow_variables() == {
        **UNCONDITIONAL,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_CONFIGURE_LOGGING": "false",
    }

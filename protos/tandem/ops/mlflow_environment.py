"""MLflow's environment variables. MLflow reads them when it is imported; a variable that the user has set wins."""

from __future__ import annotations

import os


def set_mlflow_defaults(
    *,
    max_retries: int | None = None,
    timeout_seconds: int | None = None,
    progress_bars: bool = True,
    own_logging: bool = True,
) -> None:
    """Sets the variables that are unset. Call it before the first import of MLflow.

    Telemetry to MLflow's developers is off, and so are the lines in which MLflow prints a run's URL with its password.
    `max_retries` and `timeout_seconds` apply to each HTTP call to a registry server; None keeps MLflow's defaults, with
    which a call to a server that is down takes minutes. `progress_bars` shows MLflow's progress bars of downloads,
    `own_logging` lets MLflow configure its own loggers.
    """
    defaults = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    if max_retries is not None:
        defaults["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(max_retries)
    if timeout_seconds is not None:
        defaults["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout_seconds)
    if not progress_bars:
        defaults["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    if not own_logging:
        defaults["MLFLOW_CONFIGURE_LOGGING"] = "false"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)

"""Settings of the trainer: environment variables TANDEM_*, validated at start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from tandem.contract.names import CHAMPION, REGISTERED_MODEL
from tandem.ops.environment_settings import EnvironmentSettings, variable_of
from tandem.ops.settings_types import RegistryUri, default_data_dir, default_registry_uri, sqlite_file
from trainer.core.config_problems import ConfigText, describe_problems
from trainer.core.errors import ConfigError

EngineName = Literal["duckdb", "spark"]
_ENVIRONMENT = ConfigText(label="", text="")


class Settings(EnvironmentSettings):
    """Where the trainer keeps data and registers models."""

    data_dir: Path = Field(default_factory=default_data_dir)
    """Folder for downloads, prepared data, embeddings. Put it where there is room for twice the data set."""
    engine: EngineName = "duckdb"
    """What cleans data: "duckdb", or "spark" (extra `spark`, Java 17 or newer). Both prepare the same bytes; DuckDB is
    several times as fast on one machine."""
    data_version: str = ""
    """What the version control of the data calls them, DVC for example; recorded with every model. `--data-version`
    comes first."""
    registry_uri: RegistryUri = Field(default_factory=default_registry_uri)
    """MLflow tracking and registry URI: sqlite with an absolute path, or the address of an MLflow server."""
    artifact_root: str = ""
    """Where MLflow keeps artifacts of an experiment that this program creates. Empty: the folder mlflow-artifacts
    beside an SQLite registry; a registry behind http(s) decides for itself."""
    model_name: str = Field(default=REGISTERED_MODEL, min_length=1)
    """Name of the registered model and of the experiment. One for each data set that is served on its own."""
    model_alias: str = Field(default=CHAMPION, min_length=1)
    """Alias that is moved to a model that passes the gate."""
    drift_reference_days: int = Field(default=28, ge=1)
    """Days that the recent ones are compared with. More make a calmer reference that knows less of seasons."""
    drift_recent_days: int = Field(default=7, ge=1)
    """Newest days that are compared. Whole weeks keep weekdays out of the comparison."""
    drift_max_users: int = Field(default=1000, ge=20)
    """Users drawn from each of the two windows. Time and memory grow with it, those of user vectors with its square."""
    drift_distance: float = Field(default=0.1, gt=0.0)
    """Least distance of a column that is called drift: standard deviations for numbers, Jensen-Shannon for the rest.
    What chance makes of it is measured too, and is a lower bound."""
    drift_embedding_distance: float = Field(default=0.015, gt=0.0)
    """The same for user vectors: their squared maximum mean discrepancy."""
    drift_share: float = Field(default=0.3, gt=0.0, le=1.0)
    """Share of a report's columns from which on the report says drift. Lower it to retrain in full more often."""
    pushgateway_url: str = ""
    """Prometheus Pushgateway that gets the drift gauges, for example http://pushgateway:9091. Empty: they are written
    to a file alone, for node_exporter's textfile collector."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""

    @property
    def artifact_location(self) -> str | None:
        """Where artifacts of a new experiment go; None leaves it to the registry."""
        database = sqlite_file(self.registry_uri)
        if self.artifact_root or database is None:
            return self.artifact_root or None
        return str(database.parent / "mlflow-artifacts")


def load_settings() -> Settings:
    """Reads the environment. Raises ConfigError that names each wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        variables = [variable_of(str(problem["loc"][0])) for problem in error.errors()]
        raise ConfigError(f"{', '.join(variables)}: {describe_problems(error, _ENVIRONMENT, lambda _: ())}") from error

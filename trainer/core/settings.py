"""Settings of the trainer: environment variables TANDEM_*, validated at start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from tandem.contract.names import CHAMPION, REGISTERED_MODEL
from tandem.ops.environment_settings import EnvironmentSettings, read_settings
from tandem.ops.settings_types import (
    ModelAlias,
    ModelName,
    RegistryUri,
    default_data_dir,
    default_registry_uri,
    sqlite_file,
)
from trainer.core.errors import ConfigError

EngineName = Literal["duckdb", "spark"]


class Settings(EnvironmentSettings):
    """Where the trainer keeps data and registers models."""

    data_dir: Path = Field(default_factory=default_data_dir)
    """Folder for downloads, prepared data, embeddings. Choose a disk with free space for twice the data set."""
    engine: EngineName = "duckdb"
    """Engine that cleans data: "duckdb", or "spark" (extra `spark`, Java 17 or newer). Both write the same bytes;
    DuckDB is several times as fast on one machine."""
    data_version: str = ""
    """Version of the data in its version control, DVC for example; recorded with every model. `--data-version` takes
    precedence."""
    registry_uri: RegistryUri = Field(default_factory=default_registry_uri)
    """MLflow tracking and registry URI: sqlite with an absolute path, or the address of an MLflow server."""
    artifact_root: str = ""
    """Where MLflow stores the artifacts of an experiment that this program creates. Empty: the folder mlflow-artifacts
    beside an SQLite registry; an MLflow server at http(s) decides for itself."""
    model_name: ModelName = REGISTERED_MODEL
    """Name of the registered model and of the experiment. Use a separate name for each data set that is served."""
    model_alias: ModelAlias = CHAMPION
    """Alias that moves to a model that passes the gate."""
    drift_reference_days: int = Field(default=28, ge=1)
    """Number of days in the reference window. More days give a steadier reference that follows the seasons less."""
    drift_recent_days: int = Field(default=7, ge=1)
    """Number of newest days that are compared with the reference. With whole weeks, weekdays make no difference."""
    drift_max_users: int = Field(default=1000, ge=20)
    """Maximum number of users drawn from each window. Time and memory grow in proportion, for user vectors with the
    square."""
    drift_distance: float = Field(default=0.1, gt=0.0)
    """Minimum distance of a column that counts as drift: in standard deviations for numbers, the Jensen-Shannon
    distance for other columns. If chance alone reaches a larger distance, that distance is the limit."""
    drift_embedding_distance: float = Field(default=0.015, gt=0.0)
    """Minimum distance of the user vectors that counts as drift: their squared maximum mean discrepancy."""
    drift_share: float = Field(default=0.3, gt=0.0, le=1.0)
    """Minimum share of a report's columns that must drift for the report to say drift. Lower it to retrain in full more
    often."""
    pushgateway_url: str = ""
    """Prometheus Pushgateway that receives the drift gauges, for example http://pushgateway:9091. Empty: the gauges are
    only written to a file, for node_exporter's textfile collector."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log level that is written."""

    @property
    def artifact_location(self) -> str | None:
        """Artifact location of a new experiment; None: the registry decides."""
        database = sqlite_file(self.registry_uri)
        if self.artifact_root or database is None:
            return self.artifact_root or None
        return str(database.parent / "mlflow-artifacts")


def load_settings() -> Settings:
    """Reads the environment. Raises ConfigError, which names each wrong variable."""
    return read_settings(Settings, raises=ConfigError)

"""Settings of the trainer: environment variables TANDEM_*, validated at start."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tandem.contract.names import CHAMPION, REGISTERED_MODEL
from trainer.config import describe_validation_error
from trainer.errors import ConfigError


class Settings(BaseSettings):
    """Where the trainer keeps data and registers models."""

    model_config = SettingsConfigDict(env_prefix="TANDEM_", frozen=True, use_attribute_docstrings=True)

    data_dir: Path = Field(default_factory=lambda: Path.cwd() / ".tandem")
    """Folder for downloads, prepared data, embeddings. Put it where there is room for twice the data set."""
    registry_uri: str = Field(default_factory=lambda: f"sqlite:///{Path.cwd() / '.tandem' / 'mlflow.db'}")
    """MLflow tracking and registry URI: sqlite with an absolute path, or the address of an MLflow server."""
    artifact_root: str = Field(default_factory=lambda: str(Path.cwd() / ".tandem" / "mlflow-artifacts"))
    """Where MLflow keeps artifacts of an experiment this program creates. A server may have its own rule."""
    model_name: str = Field(default=REGISTERED_MODEL, min_length=1)
    """Name of the registered model and of the experiment. One for each data set that is served on its own."""
    model_alias: str = Field(default=CHAMPION, min_length=1)
    """Alias that is moved to a model that passes the gate."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    """Least level that is logged: debug, info, warning or error."""


def load_settings() -> Settings:
    """Reads the environment. Raises ConfigError that names each wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigError(f"environment TANDEM_*: {describe_validation_error(error)}") from error

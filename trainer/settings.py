"""Settings of the trainer: environment variables TANDEM_*, validated at start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tandem.contract.names import CHAMPION, REGISTERED_MODEL
from trainer.config import describe_validation_error
from trainer.errors import ConfigError


def _absolute_if_sqlite(uri: str) -> str:
    if uri.startswith("sqlite:") and not uri.startswith("sqlite:////"):
        raise ValueError("must name an absolute path: sqlite:////absolute/path.db")
    return uri


class Settings(BaseSettings):
    """Where the trainer keeps data and registers models."""

    model_config = SettingsConfigDict(
        env_prefix="TANDEM_", env_ignore_empty=True, frozen=True, use_attribute_docstrings=True
    )

    data_dir: Path = Field(default_factory=lambda: Path.cwd() / ".tandem")
    """Folder for downloads, prepared data, embeddings. Put it where there is room for twice the data set."""
    registry_uri: Annotated[str, AfterValidator(_absolute_if_sqlite)] = Field(
        default_factory=lambda: f"sqlite:///{Path.cwd() / '.tandem' / 'mlflow.db'}"
    )
    """MLflow tracking and registry URI: sqlite with an absolute path, or the address of an MLflow server."""
    artifact_root: str = Field(default_factory=lambda: str(Path.cwd() / ".tandem" / "mlflow-artifacts"))
    """Where MLflow keeps artifacts of an experiment this program creates. A server may have its own rule."""
    model_name: str = Field(default=REGISTERED_MODEL, min_length=1)
    """Name of the registered model and of the experiment. One for each data set that is served on its own."""
    model_alias: str = Field(default=CHAMPION, min_length=1)
    """Alias that is moved to a model that passes the gate."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""


def load_settings() -> Settings:
    """Reads the environment. Raises ConfigError that names each wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0]).upper()
        raise ConfigError(f"TANDEM_{name}: {describe_validation_error(error)}") from error

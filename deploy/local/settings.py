"""Settings of the local stack: the ones of the programs it starts that it must know itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.local.errors import SettingsError

_PREFIX: Final = "TANDEM_"


class Settings(BaseSettings):
    """Read from the same TANDEM_* variables as the programs' own; empty means unset."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, use_attribute_docstrings=True
    )

    registry_uri: str = Field(default_factory=lambda: f"sqlite:///{Path.cwd()}/.tandem/mlflow.db")
    """MLflow registry. Change it to train into, and serve from, a registry that others see."""

    store_url: str = "redis://127.0.0.1:6379/0"
    """Online store. One that answers here is used; otherwise the embedded one is started here."""

    data_dir: Path = Field(default_factory=lambda: Path.cwd() / ".tandem")
    """Folder of downloads, prepared data, bundles, the embedded store's files, and the logs of this stack."""

    grpc_port: int = Field(default=50051, ge=0, le=65535)
    """Port of the gRPC server on 127.0.0.1; 0 picks a free one."""

    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port of the HTTP API on 127.0.0.1; 0 picks a free one."""

    metrics_port: int = Field(default=9100, ge=0, le=65535)
    """Port of Prometheus metrics on 127.0.0.1; 0 picks a free one."""

    sync_metrics_port: int = Field(default=9101, ge=0, le=65535)
    """Port of the metrics of `feature_sync run` on 127.0.0.1; 0 picks a free one."""


def load_settings() -> Settings:
    """The settings of this process. Raises SettingsError naming the first variable that cannot be used."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SettingsError(
            f"{_PREFIX}{str(first['loc'][0]).upper()}: {first['msg']} (it is {first['input']!r})"
        ) from error

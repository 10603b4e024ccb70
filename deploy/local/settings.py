"""Settings of the local stack: those settings of its programs that the stack itself needs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from deploy.local.errors import SettingsError
from tandem.ops.environment_settings import EnvironmentSettings, read_settings
from tandem.ops.settings_types import DEFAULT_STORE_URL, RegistryUri, StoreUrl, default_data_dir, default_registry_uri


class Settings(EnvironmentSettings):
    """Read from the same variables as the programs' settings."""

    registry_uri: RegistryUri = Field(default_factory=default_registry_uri)
    """MLflow registry. Change it to train into, and serve from, a shared registry."""

    store_url: StoreUrl = DEFAULT_STORE_URL
    """Online store. If a store answers here, it is used; otherwise the embedded store is started here."""

    data_dir: Path = Field(default_factory=default_data_dir)
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
    return read_settings(Settings, raises=SettingsError)

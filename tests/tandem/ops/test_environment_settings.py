from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from tandem.ops.environment_settings import EnvironmentSettings, settings_help, variable_of


class Settings(EnvironmentSettings):
    port: int = 50051
    """Port of the API;
    0 takes any free one."""

    data_dir: Path = Field(default_factory=lambda: Path("/data"))
    """Folder of downloads."""

    certificate: Path | None = None
    """File with a certificate."""


def test_help_has_one_paragraph_for_each_setting() -> None:
    assert settings_help(Settings) == (
        "  TANDEM_PORT (default: 50051)\n      Port of the API; 0 takes any free one.\n"
        "  TANDEM_DATA_DIR (default: /data)\n      Folder of downloads.\n"
        "  TANDEM_CERTIFICATE (default: )\n      File with a certificate."
    )


def test_variables_are_read_and_empty_ones_are_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_of("port"), "1")
    monkeypatch.setenv("TANDEM_DATA_DIR", "")
    settings = Settings()
    assert (settings.port, settings.data_dir) == (1, Path("/data"))
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 2  # type: ignore[misc]

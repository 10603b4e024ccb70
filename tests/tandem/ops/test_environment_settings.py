from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import AfterValidator, Field, ValidationError

from tandem.ops.environment_settings import EnvironmentSettings, read_settings, settings_help, variable_of
from tandem.ops.settings_types import StoreUrl


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


class SecretSettings(EnvironmentSettings):
    store_url: StoreUrl = "redis://127.0.0.1:6379/0"
    """Store."""

    port: int = 1
    """Port."""

    weights: dict[str, float] = Field(default_factory=dict)
    """Weights as JSON."""


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("TANDEM_STORE_URL", "valkey://:s3cret@db:1/0", "must begin with redis://, rediss:// or unix://"),
        ("TANDEM_STORE_URL", "s3cret", "must begin with redis://, rediss:// or unix://"),
        (
            "TANDEM_STORE_URL",
            "redis://:s3cret/x@db:1/0",
            "has a port that is not a number; in a password, write / ? # [ ] @ as %2F %3F %23 %5B %5D %40",
        ),
        (
            "TANDEM_PORT",
            "tcp://:s3cret@db:1",
            "Input should be a valid integer, unable to parse string as an integer (got 'tcp://db:1')",
        ),
        ("TANDEM_WEIGHTS", "s3cret", "is not JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_what_is_wrong_is_one_line_without_a_value_that_may_be_secret(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, problem: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(LookupError) as raised:
        read_settings(SecretSettings, raises=LookupError)
    assert raised.value.args == (f"{variable}: {problem}",)


def _quoted(text: str) -> str:
    if text != "usual":
        raise ValueError(f"{text} is not usual")
    return text


class QuotingSettings(EnvironmentSettings):
    kind: Annotated[str, AfterValidator(_quoted)] = "usual"
    """Kind."""


@pytest.mark.parametrize(
    ("value", "problem"),
    [("a\nb", "TANDEM_KIND: a\\nb is not usual"), ("\udcff", "TANDEM_KIND: is not text in UTF-8")],
)
def test_a_value_that_a_line_cannot_hold_is_one_line(monkeypatch: pytest.MonkeyPatch, value: str, problem: str) -> None:
    monkeypatch.setenv("TANDEM_KIND", value)
    with pytest.raises(LookupError) as raised:
        read_settings(QuotingSettings, raises=LookupError)
    assert str(raised.value).startswith(problem)


class FolderSettings(EnvironmentSettings):
    data_dir: Path = Path()
    """Folder."""


def test_a_path_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_DATA_DIR", "/x/a\nb")
    with pytest.raises(LookupError, match=r"^TANDEM_DATA_DIR: must be one line, not '/x/a\\nb' \(got '/x/a\\nb'\)$"):
        read_settings(FolderSettings, raises=LookupError)

"""Settings of feature_sync: environment variables `TANDEM_*`, read and checked once at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from feature_sync.errors import SettingsError
from tandem.contract import names

_PREFIX: Final = "TANDEM_"
_STORE_SCHEMES: Final = ("redis://", "rediss://", "unix://")


def _check_store_url(url: str) -> str:
    if not url.startswith(_STORE_SCHEMES):
        raise ValueError(f"must begin with one of {', '.join(_STORE_SCHEMES)}")
    return url


def _check_registry_uri(uri: str) -> str:
    if uri.startswith("sqlite:") and not uri.startswith("sqlite:////"):
        raise ValueError("must name an absolute path: sqlite:////absolute/path.db")
    return uri


class Settings(BaseSettings):
    """What feature_sync can be told. Every field is the variable TANDEM_ + its name in capitals; empty means unset."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, use_attribute_docstrings=True
    )

    registry_uri: Annotated[str, AfterValidator(_check_registry_uri)] = Field(
        default_factory=lambda: f"sqlite:///{Path.cwd()}/.tandem/mlflow.db"
    )
    """MLflow registry that names the model to publish for: `sqlite:////absolute/path` or `http(s)://host:port`.
    Change it when the registry does not lie in the working directory."""

    model_name: str = Field(default=names.REGISTERED_MODEL, min_length=1)
    """Registered model. Change it to keep several recommenders in one registry."""

    model_alias: str = Field(default=names.CHAMPION, min_length=1)
    """Alias of the version whose vectors are published. Set it to `challenger` to prepare a version before it is
    served."""

    store_url: Annotated[str, AfterValidator(_check_store_url)] = "redis://127.0.0.1:6379/0"
    """Online store: any Redis or Valkey, `redis://`, `rediss://` (TLS) or `unix://`. `feature_sync store` starts the
    embedded one on the port named here."""

    data_dir: Path = Field(default_factory=lambda: Path.cwd() / ".tandem")
    """Folder of caches (downloaded bundles) and of the embedded store's files. Needs room for one bundle."""

    vector_ttl_seconds: int = Field(default=14 * 24 * 3600, ge=0)
    """Seconds until a user vector that is not published again expires; 0 keeps vectors for ever. Every model version
    has vectors of its own: without an end, old versions' vectors fill the store. Keep it well above the time between
    two publishes; a vector that has expired is computed by the server, which costs it time, not correctness."""

    store_retry_seconds: float = Field(default=30.0, ge=0, le=3600)
    """Seconds for which a publish under way keeps trying when the store drops the connection. Raise it where a
    fail-over of the store takes longer. It does not delay the error when the store is away from the start."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log event that is written."""


def load_settings() -> Settings:
    """The settings of this process. Raises SettingsError naming the first variable that cannot be used."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        variable = _PREFIX + str(first["loc"][0]).upper()
        raise SettingsError(f"{variable}: {first['msg']} (it is {first['input']!r})") from error


def settings_help() -> str:
    """The settings as text for --help, one paragraph each."""
    paragraphs = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        description = " ".join((field.description or "").split())
        paragraphs.append(f"  {_PREFIX}{name.upper()} (default: {default})\n      {description}")
    return "\n".join(paragraphs)

"""Settings of the inference server: environment variables `TANDEM_*`, validated at start.

Every process of the server (supervisor, worker, check) reads them from the same environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from inference_server.errors import SettingsError
from tandem.contract import names

ENV_PREFIX: Final = "TANDEM_"

_Port = Annotated[int, Field(ge=0, le=65535)]


def _usable_registry_uri(uri: str) -> str:
    if "://" not in uri or uri.startswith("file:"):
        raise ValueError("must be a URI such as sqlite:////absolute/path.db or http://host:5000")
    if uri.startswith("sqlite:") and not uri.startswith("sqlite:////"):
        raise ValueError("must name an absolute path: sqlite:////absolute/path.db")
    return uri


def _usable_store_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return url


def _existing_directory(path: Path | None) -> Path | None:
    if path is not None and not path.is_dir():
        raise ValueError(f"{path} is not a directory")
    return path


class Settings(BaseSettings):
    """What can be set. A docstring under each says its unit, its effect and when to change it."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on, for gRPC and for metrics. 0.0.0.0 in a container."""

    grpc_port: _Port = 50051
    """Port of the gRPC API; 0 takes any free one and the log says which."""

    metrics_port: _Port = 9100
    """Port of the Prometheus endpoint /metrics; 0 takes any free one and the log says which."""

    reflection: bool = True
    """Whether gRPC reflection is served, which grpcurl needs. Off where the API is nobody's business."""

    bundle_path: Annotated[Path | None, AfterValidator(_existing_directory)] = None
    """Bundle folder to serve without any registry; empty: follow the registry. For debugging and air-gapped hosts."""

    registry_uri: Annotated[str, AfterValidator(_usable_registry_uri)] = Field(
        default_factory=lambda: f"sqlite:///{Path.cwd() / '.tandem' / 'mlflow.db'}"
    )
    """MLflow registry. Read by the supervisor only."""

    model_name: str = Field(default=names.REGISTERED_MODEL, min_length=1)
    """Registered model to serve."""

    model_alias: str = Field(default=names.CHAMPION, min_length=1)
    """Registry alias to serve; reported as `variant`."""

    registry_poll_seconds: float = Field(default=2.0, gt=0, le=3600)
    """Seconds between two looks at the alias. Longer where many servers share one registry."""

    store_url: Annotated[str, AfterValidator(_usable_store_url)] = "redis://127.0.0.1:6379/0"
    """Online store: Redis or Valkey."""

    data_dir: Path = Field(default_factory=lambda: Path.cwd() / ".tandem")
    """Folder for downloaded bundles. On a disk that survives restarts, so that a start needs no registry."""

    deadline_ms: float = Field(default=50.0, ge=1, le=60_000)
    """Milliseconds an answer may take, also when the caller allows more. Raise it where full answers matter more than
    fast ones."""

    workers: int = Field(default=1, ge=1, le=256)
    """Processes that answer on the one port. One for each core that is there for them; 1 where another layer adds
    servers, as in Kubernetes."""

    worker_start_attempts: int = Field(default=5, ge=1, le=1000)
    """Starts in a row that may fail before the server ends, if no other worker answers. Raise it where what workers
    need at their start comes late."""

    min_swap_overlap: float = Field(default=0.0, ge=0, le=1)
    """Least share of recommended items that a new bundle must have in common with the one that serves, mean over its
    held-out users; below, it is refused. 0 refuses nothing: a retrained model may well differ."""

    max_concurrent_requests: int = Field(default=256, ge=1, le=100_000)
    """Requests that one worker answers at once; further ones are refused with RESOURCE_EXHAUSTED. Lower it when latency
    grows under load."""

    shutdown_grace_seconds: float = Field(default=10.0, ge=0, le=600)
    """Seconds that requests in flight get to finish at shutdown before they are cancelled."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged; debug logs every request."""

    @classmethod
    def load(cls) -> Self:
        """Reads the environment. Raises SettingsError, one line that names the variable."""
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            variable = ENV_PREFIX + str(first["loc"][0]).upper()
            message = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{variable}: {message} (got {first['input']!r})") from error


def settings_help() -> str:
    """The settings as a text for --help, one paragraph each."""
    paragraphs = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "" if default is None else default
        description = " ".join((field.description or "").split())
        paragraphs.append(f"  {ENV_PREFIX}{name.upper()} (default: {shown})\n      {description}")
    return "\n".join(paragraphs)

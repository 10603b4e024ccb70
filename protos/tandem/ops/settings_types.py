"""Types and defaults of settings that several programs read: the URLs of the registry, the store and the streams."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo

from tandem.ops.store_url import with_options

DEFAULT_STORE_URL: Final = "redis://127.0.0.1:6379/0"
_SQLITE: Final = "sqlite:///"
_MAX_NAME: Final = 255
_ALIAS: Final = re.compile(rf"[\w-]{{1,{_MAX_NAME}}}")
_VERSION_ALIAS: Final = re.compile(r"[vV]\d+")
_VERSION_NUMBER: Final = re.compile(r"[0-9]{1,18}")
MAX_SERVED_NAME_BYTES: Final = 100
"""Longest alias that serves beside the server's own: it becomes a part of file names."""


def default_data_dir() -> Path:
    """The folder .tandem in the working folder."""
    return Path.cwd() / ".tandem"


def default_registry_uri() -> str:
    """An SQLite registry in the default data folder."""
    return f"{_SQLITE}{default_data_dir() / 'mlflow.db'}"


def sqlite_file(registry_uri: str) -> Path | None:
    """The file of an SQLite registry; None where a server keeps the registry."""
    return Path(registry_uri.removeprefix(_SQLITE)) if registry_uri.startswith(_SQLITE) else None


def _check_registry_uri(uri: str) -> str:
    # A folder, MLflow's file store, is not accepted: current versions of MLflow refuse it.
    if "://" not in uri or uri.startswith("file:"):
        raise ValueError("must be a URI such as sqlite:////absolute/path.db or http://host:5000")
    if uri.startswith("sqlite:") and not uri.startswith("sqlite:////"):
        raise ValueError("must name an absolute path: sqlite:////absolute/path.db")
    return with_port(uri)


def _check_store_url(url: str) -> str:
    _refuse_sentinel(url)
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return with_options(with_port(url))


def _refuse_sentinel(url: str) -> None:
    if "sentinel" in url.partition("://")[0]:
        raise ValueError(
            "names a Sentinel, which is not asked: give the address of the master, or one that follows it (a DNS name "
            "or a proxy), as redis://host:port/0"
        )


def _check_events_url(url: str) -> str:
    _refuse_sentinel(url)
    if url and not url.startswith(("redis://", "rediss://", "unix://", "kafka://")):
        raise ValueError("must begin with redis://, rediss://, unix:// or kafka://")
    if not url.startswith("kafka://"):
        return with_options(with_port(url))
    if not urlsplit(url).netloc:
        raise ValueError("names no broker: kafka://host:port,host:port")
    return url


def with_port(url: str) -> str:
    """The URL, whose port is a number. Libraries would quote what they take for the port, which may be the password."""
    if not url.isprintable() or (" " in url and sqlite_file(url) is None):
        raise ValueError("holds a blank or a control character; write it as %20, %0A and so on")
    try:
        parts = urlsplit(url)
        _ = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError:
        raise ValueError(
            "has a port that is not a number; in a password, write / ? # [ ] @ as %2F %3F %23 %5B %5D %40"
        ) from None
    return url


def _check_model_name(name: str) -> str:
    if not name.strip() or name != name.strip() or len(name) > _MAX_NAME:
        raise ValueError(f"must have 1 to {_MAX_NAME} characters, and no blanks around them")
    if not name.isprintable() or name in {".", ".."} or set(name) & set("/\\:'\""):
        raise ValueError("must be printable, and hold none of / \\ : ' \"")
    return name


def _check_alias(alias: str) -> str:
    if not _ALIAS.fullmatch(alias):
        raise ValueError(f"must be 1 to {_MAX_NAME} letters, digits, _ and -")
    if alias.lower() == "latest" or _VERSION_ALIAS.fullmatch(alias):
        raise ValueError("is kept by MLflow for itself; choose another alias")
    return alias


def is_version_number(name: str) -> bool:
    """Whether a name is a version number of the registry, and no alias."""
    return _VERSION_NUMBER.fullmatch(name) is not None


def check_served_name(name: str) -> str:
    """An alias or version number under which a model can serve, as it is. Raises ValueError, which says what is
    allowed."""
    if not is_version_number(name):
        _check_alias(name)
    if len(name.encode()) > MAX_SERVED_NAME_BYTES:
        raise ValueError(f"must have at most {MAX_SERVED_NAME_BYTES} bytes")
    return name


def split_names(names: str) -> tuple[str, ...]:
    """The names of a list with commas, each once, in order."""
    return tuple(dict.fromkeys(name for part in names.split(",") if (name := part.strip())))


def _check_served_names(names: str) -> str:
    for name in split_names(names):
        try:
            check_served_name(name)
        except ValueError as error:
            raise ValueError(f"{name[:MAX_SERVED_NAME_BYTES]!r} {error}; or a version number") from None
    return ",".join(split_names(names))


ServedNames = Annotated[str, AfterValidator(_check_served_names)]
"""Aliases and version numbers, separated by commas; `split_names` makes a tuple of them."""

ModelName = Annotated[str, AfterValidator(_check_model_name)]
"""A registered model that MLflow can hold, and filters of its search can name."""

ModelAlias = Annotated[str, AfterValidator(_check_alias)]
"""An alias that MLflow can hold."""

RegistryUri = Annotated[str, AfterValidator(_check_registry_uri)]
"""An MLflow registry: `sqlite:////absolute/path.db`, or the address of an MLflow server."""

StoreUrl = Annotated[str, AfterValidator(_check_store_url)]
"""A Redis or Valkey: `redis://`, `rediss://` (TLS) or `unix://`."""

EventsUrl = Annotated[str, AfterValidator(_check_events_url)]
"""The streams of events: a Redis or Valkey, or Kafka, `kafka://host:port,host:port`. Empty: the online store."""


def _with_certificate(key: Path | None, info: ValidationInfo) -> Path | None:
    certificate = str(info.field_name).removesuffix("key") + "certificate"
    variable = f"TANDEM_{certificate.upper()}"
    if (key is None) != (info.data.get(certificate) is None):
        raise ValueError(f"is needed with {variable}" if key is None else f"needs {variable} too")
    return key


PrivateKeyFile = Annotated[Path | None, Field(validate_default=True), AfterValidator(_with_certificate)]
"""Setting `<name>tls_key`, the private key of the certificate that `<name>tls_certificate` names."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from tandem.ops.settings_types import (
    EventsUrl,
    ModelAlias,
    ModelName,
    RegistryUri,
    StoreUrl,
    default_registry_uri,
    sqlite_file,
)

A_URI = r"must be a URI such as sqlite:////absolute/path\.db or http://host:5000"
ABSOLUTE = "must name an absolute path: sqlite:////absolute/path.db"
REDIS = "must begin with redis://, rediss:// or unix://"
REDIS_OR_KAFKA = "must begin with redis://, rediss://, unix:// or kafka://"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (RegistryUri, "sqlite:////data/mlflow.db"),
        (RegistryUri, "https://mlflow.example.org"),
        (RegistryUri, "sqlite:////data/my folder/mlflow.db"),
        (ModelName, "Shop, 2. attempt (EU)"),
        (ModelAlias, "champion-2"),
        (StoreUrl, "redis://127.0.0.1:6379/0"),
        (StoreUrl, "rediss://store"),
        (StoreUrl, "rediss://u:p%2F@store:1/3?ssl_ca_certs=/ca.pem&socket_timeout=1.5"),
        (StoreUrl, "unix:///run/valkey.sock?db=2"),
        (StoreUrl, "unix:///run/valkey.sock"),
        (EventsUrl, ""),
        (EventsUrl, "unix:///run/valkey.sock"),
        (EventsUrl, "kafka://a:9092,b:9092"),
    ],
)
def test_a_usable_value_is_taken_as_it_is(kind: object, value: str) -> None:
    assert TypeAdapter[str](kind).validate_python(value) == value


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (RegistryUri, "", A_URI),
        (RegistryUri, "/data/mlruns", A_URI),
        (RegistryUri, "file:/data/mlruns", A_URI),
        (RegistryUri, "file:///data/mlruns", A_URI),
        (RegistryUri, "sqlite:///relative.db", ABSOLUTE),
        (RegistryUri, "http://host:5000\n", "control character"),
        (RegistryUri, "http://ho st:5000", "a blank"),
        (RegistryUri, "http://[::1:5000", "a port that is not a number"),
        (StoreUrl, "redis://h:99999/0", "a port that is not a number"),
        (ModelName, " ", "must have 1 to 255 characters"),
        (ModelName, "x" * 256, "must have 1 to 255 characters"),
        (ModelName, "o'brien", "must be printable, and hold none of"),
        (ModelName, "../shop", "must be printable, and hold none of"),
        (ModelName, "a\nb", "must be printable, and hold none of"),
        (ModelAlias, "", "must be 1 to 255 letters, digits, _ and -"),
        (ModelAlias, "a b", "must be 1 to 255 letters, digits, _ and -"),
        (ModelAlias, "latest", "is kept by MLflow for itself"),
        (ModelAlias, "v7", "is kept by MLflow for itself"),
        (StoreUrl, "", REDIS),
        (StoreUrl, "http://localhost", REDIS),
        (StoreUrl, "kafka://a:9092", REDIS),
        (StoreUrl, "redis://h:1/x", "a database that is not a number"),
        (StoreUrl, "redis://h:1/0?socket_timout=3", "did you mean socket_timeout"),
        (StoreUrl, "redis://h:1/0?protocol=3", "an option that does not exist"),
        (StoreUrl, "redis://h:1/0?socket_timeout=abc", "an option socket_timeout that is not a number"),
        (EventsUrl, "redis://h:1/x", "a database that is not a number"),
        (EventsUrl, "http://localhost", REDIS_OR_KAFKA),
        (EventsUrl, "kafka://", "names no broker"),
        (EventsUrl, "kafka://?security.protocol=ssl", "names no broker"),
    ],
)
def test_an_unusable_value_is_told_what_is_allowed(kind: object, value: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter[str](kind).validate_python(value)


def test_the_default_registry_is_a_file_in_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_registry_uri() == f"sqlite:///{tmp_path}/.tandem/mlflow.db"
    assert TypeAdapter[str](RegistryUri).validate_python(default_registry_uri()) == default_registry_uri()


def test_a_registry_that_is_no_file_has_none() -> None:
    assert sqlite_file("sqlite:////data/mlflow.db") == Path("/data/mlflow.db")
    assert sqlite_file("http://mlflow:5000") is None

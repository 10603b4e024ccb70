"""Settings of the nightly run: environment variables TANDEM_NIGHTLY_*, the same for Airflow and the CronJob.

The programs read their own variables; of these, only TANDEM_DATA_DIR is read here too.
"""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from deploy.nightly.errors import SettingsError
from tandem.ops.arguments import number

_PREFIX: Final = "TANDEM_NIGHTLY_"
_MAX_SECONDS: Final = 7 * 24 * 3600
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the nightly run is told."""

    data_dir: Path
    """TANDEM_DATA_DIR: feature_sync keeps events and item changes below it."""
    data_arguments: tuple[str, ...] = ("--dataset", "ml-100k")
    """TANDEM_NIGHTLY_DATA: the data set, in the words of `python -m trainer prepare`."""
    config_arguments: tuple[str, ...] = ()
    """TANDEM_NIGHTLY_CONFIG: the training configuration and the gate's limits, in the words of `trainer train`, for
    example "--set fit.max_minutes=30"."""
    full_weekday: int = 6
    """TANDEM_NIGHTLY_FULL_ON: the weekday on which the nightly run trains in full, "sunday" by default; here 0 (Monday)
    to 6."""
    server_url: str = "http://127.0.0.1:8080"
    """TANDEM_NIGHTLY_SERVER: the HTTP address of a server, asked which model it serves."""
    serve_timeout_seconds: float = 600.0
    """TANDEM_NIGHTLY_SERVE_TIMEOUT_SECONDS: how long the server may take to serve a new champion."""
    api_key: str = ""
    """TANDEM_NIGHTLY_API_KEY: an API key with the right `operate`, for a server that requires
    one."""
    feature_store: bool = False
    """TANDEM_NIGHTLY_FEATURES: "on" also materialises the served values into the feature store, which must be applied
    already."""


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Reads the environment. Raises SettingsError."""
    given = {name.removeprefix(_PREFIX): value for name, value in environment.items() if value}
    defaults = Settings(data_dir=Path(environment.get("TANDEM_DATA_DIR") or Path.cwd() / ".tandem"))
    day = given.get("FULL_ON", _DAYS[defaults.full_weekday]).lower()
    if day not in _DAYS:
        raise SettingsError(f"{_PREFIX}FULL_ON: {day!r} is none of {', '.join(_DAYS)}")
    features = given.get("FEATURES", "off").lower()
    if features not in ("on", "off"):
        raise SettingsError(f"{_PREFIX}FEATURES: {features!r} is neither on nor off")
    return Settings(
        data_dir=defaults.data_dir,
        data_arguments=_words(given, "DATA", defaults.data_arguments),
        config_arguments=_words(given, "CONFIG", defaults.config_arguments),
        full_weekday=_DAYS.index(day),
        server_url=_server(given.get("SERVER", defaults.server_url)),
        serve_timeout_seconds=_seconds(given, "SERVE_TIMEOUT_SECONDS", defaults.serve_timeout_seconds),
        api_key=_key(given.get("API_KEY", defaults.api_key)),
        feature_store=features == "on",
    )


def _server(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or not url.isascii() or " " in url:
        raise SettingsError(f"{_PREFIX}SERVER: must be an address such as http://127.0.0.1:8080")
    return url.rstrip("/")


def _seconds(given: Mapping[str, str], name: str, default: float) -> float:
    try:
        return number(0, _MAX_SECONDS)(given[name]) if name in given else default
    except ArgumentTypeError as error:
        raise SettingsError(f"{_PREFIX}{name}: {error}") from error


def _key(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise SettingsError(f"{_PREFIX}API_KEY: must be printable ASCII, as a header can carry it")
    return text


def _words(given: Mapping[str, str], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(given[name])) if name in given else default
    except ValueError as error:
        raise SettingsError(f"{_PREFIX}{name}: {error} in {given[name]!r}") from error

"""The commands of the nightly run, one function each, which returns the words after `python -m`.

    attribute
    ingest -> drift -> train (a step on from the champion, or in full) -> validate -> promote -> publish -> serve

Every command prints a JSON object as its last line; values that a command needs from another's object are arguments
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from deploy.nightly.settings import Settings

Command = tuple[str, ...]

EXIT_REFUSED: Final = 3
"""Exit status of `validate` if the gate refuses the candidate: not a failure, and the champion keeps serving."""
_ARCHIVES: Final = ("events", "item-changes")
"""Folders that feature_sync keeps below the data folder, and the options that take them."""
_IMPRESSIONS: Final = "impressions"


def ingest(settings: Settings, *, until: str) -> Command:
    """The data set with the events and item changes of the days that began before `until`."""
    folders = {f"--{name}": settings.data_dir / name for name in _ARCHIVES}
    # feature_sync creates a folder for its first entry.
    kept = [word for option, folder in folders.items() if folder.is_dir() for word in (option, str(folder))]
    return ("trainer", "prepare", *settings.data_arguments, *kept, "--until", until)


def drift(prepared: str) -> Command:
    """Whether the newest days still resemble the earlier days."""
    return ("trainer", "drift", "--prepared", prepared)


def train(settings: Settings, prepared: str, *, full: bool) -> Command:
    """A candidate, registered under no alias. The gate compares it with the champion; no baseline is needed."""
    how: Sequence[str] = () if full else ("--warm-start",)
    options = ("--no-promote", "--baselines", "popularity")
    return ("trainer", "train", "--prepared", prepared, *how, *options, *settings.config_arguments)


def validate(settings: Settings, version: str, prepared: str) -> Command:
    """The gate. Its exit status is EXIT_REFUSED for a candidate that must not serve."""
    return ("trainer", "validate", version, "--prepared", prepared, *settings.config_arguments)


def promote(version: str) -> Command:
    """Moves the alias, unless the champion has changed since the gate compared."""
    return ("trainer", "promote", version)


def publish(prepared: str) -> Command:
    """The vectors of all users under the new champion."""
    return ("feature_sync", "publish", "--prepared", prepared)


def serve(model_version: str) -> Command:
    """Waits until the server serves a model."""
    return ("deploy.nightly", "wait", model_version)


def features(prepared: str) -> Command:
    """Materialises the served values into the feature store, for its readers."""
    return ("feature_sync", "features", "materialize", "--prepared", prepared)


def attribute() -> Command:
    """What came of what was shown: the report of the last weeks, which takes in the events that came late."""
    return ("feature_sync", "attribute")


def keeps_impressions(settings: Settings) -> bool:
    """Whether anything was shown that feature_sync keeps."""
    return (settings.data_dir / _IMPRESSIONS).is_dir()


def train_in_full(drift: Mapping[str, Any] | None, until: datetime, full_weekday: int) -> bool:
    """Whether to train in full tonight: on the configured weekday, on drift, and while there is no champion.

    `drift` is the output of the command `drift`; None if it failed, which is no reason to train for hours.
    """
    if until.weekday() == full_weekday:
        return True
    return drift is not None and bool(drift["drifted"] or drift["registry_version"] is None)

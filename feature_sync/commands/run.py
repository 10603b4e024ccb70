"""`run`: the service that keeps the online store up to date."""

from __future__ import annotations

import argparse

from feature_sync.core.settings import Settings

SUMMARY = "apply events to the online store until SIGTERM or Ctrl-C"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes no arguments."""


def run(_: argparse.Namespace, settings: Settings) -> int:
    """Runs the service until a signal stops it. Raises FeatureSyncError."""
    from feature_sync.service.run import run

    run(settings)
    return 0

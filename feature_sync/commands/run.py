"""`run`: the service that keeps the online store up to date."""

from __future__ import annotations

import argparse

from feature_sync.core.settings import Settings
from tandem.ops.process_end import end_process

SUMMARY = "apply events to the online store until SIGTERM or Ctrl-C"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes no arguments."""


def run(_: argparse.Namespace, settings: Settings) -> int:
    """Runs the service until a signal stops it, and ends the process. Raises FeatureSyncError."""
    from feature_sync.service.run import run

    run(settings)
    # Parts that wait for a network that does not answer are still there, as threads.
    end_process(0)

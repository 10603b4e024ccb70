"""`store`: runs the embedded Valkey."""

from __future__ import annotations

import argparse

from feature_sync.core.settings import Settings

SUMMARY = "run the embedded Valkey in the foreground, on the port of TANDEM_STORE_URL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes no arguments."""


def run(_: argparse.Namespace, settings: Settings) -> int:
    """Becomes the store: does not return. Raises FeatureSyncError when it cannot start."""
    from feature_sync.store.embedded_store import run_embedded_store

    run_embedded_store(settings.store_url, settings.data_dir)

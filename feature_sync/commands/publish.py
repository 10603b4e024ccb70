"""`publish`: writes the state and the vector of every user of prepared data."""

from __future__ import annotations

import argparse
import dataclasses

from feature_sync.commands.report import print_line
from feature_sync.core.settings import Settings
from tandem.ops.arguments import path

SUMMARY = "write state and vectors of all users of prepared data; idempotent, resumable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = "Writes every user's state and vector. Prints a report as one JSON line."
    parser.add_argument("--prepared", type=path, required=True, metavar="DIR", help="folder of prepared data")
    parser.add_argument("--bundle", type=path, metavar="DIR", help="a bundle folder, instead of the registry's alias")
    parser.add_argument("--force", action="store_true", help="look at every user even if published already")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Publishes, and prints the report. Raises FeatureSyncError or ContractError."""
    from feature_sync.publish.publish import publish

    report = publish(settings, options.prepared, bundle_dir=options.bundle, force=options.force)
    print_line(dataclasses.asdict(report))
    return 0

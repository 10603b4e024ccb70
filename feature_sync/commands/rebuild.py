"""`rebuild`: makes again what the online store has lost."""

from __future__ import annotations

import argparse
import dataclasses

from feature_sync.commands.report import print_line
from feature_sync.core.settings import Settings
from tandem.ops.arguments import path

SUMMARY = "make users, counters and trending items again from prepared data and archive; idempotent"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Restores a store that was emptied: the states and vectors of all users, item counters, trending items and the "
        "ids of the newest events. May run beside `feature_sync run`. Prints a report as one JSON line."
    )
    parser.add_argument(
        "--prepared", type=path, metavar="DIR", help="folder of prepared data (default: the newest in the data folder)"
    )
    parser.add_argument("--bundle", type=path, metavar="DIR", help="a bundle folder, instead of the registry's alias")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Rebuilds, and prints the report. Raises FeatureSyncError or ContractError."""
    from feature_sync.publish.rebuild import rebuild

    report = rebuild(settings, options.prepared, bundle_dir=options.bundle or settings.bundle_path)
    print_line(dataclasses.asdict(report))
    return 0

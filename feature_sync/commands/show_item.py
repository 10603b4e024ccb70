"""`show-item`: prints what the live catalogue holds of one item."""

from __future__ import annotations

import argparse

from feature_sync.commands.report import print_indented
from feature_sync.core.settings import Settings
from tandem.ops.arguments import identifier, path

SUMMARY = "print one item of the live catalogue and its vectors as JSON"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("item_id", type=identifier, metavar="ITEM_ID")
    parser.add_argument(
        "--bundle", type=path, metavar="DIR", help="a bundle folder, instead of champion and challenger"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Prints the item. Raises FeatureSyncError or ContractError."""
    from feature_sync.operations.show_item import show_item

    print_indented(show_item(settings, options.item_id, bundle_dir=options.bundle))
    return 0

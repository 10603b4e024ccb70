"""`show`: prints what the online store holds of one user."""

from __future__ import annotations

import argparse

from feature_sync.commands.report import print_indented
from feature_sync.core.settings import Settings
from tandem.ops.arguments import identifier, path

SUMMARY = "print one user's state and vector as JSON"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("user_id", type=identifier, metavar="USER_ID")
    parser.add_argument("--bundle", type=path, metavar="DIR", help="a bundle folder, instead of the registry's alias")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Prints the user. Raises FeatureSyncError or ContractError."""
    from feature_sync.operations.show_user import show_user

    print_indented(show_user(settings, options.user_id, bundle_dir=options.bundle))
    return 0

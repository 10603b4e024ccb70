"""`delete-user`: erases what is stored of a user, and keeps it from coming back."""

from __future__ import annotations

import argparse
import sys

from feature_sync.commands.report import print_indented
from feature_sync.core.settings import Settings
from tandem.ops.arguments import identifier

SUMMARY = "erase what is stored of a user, everywhere, and print an account as JSON"
EXIT_INCOMPLETE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Registers the user as deleted, so that no copy and no event of before brings the user back, then erases the "
        "user in every place, beside running programs. Prints per place what was removed, and what remains where and "
        "until when. Exit status 1: a place could not be erased; run it again. Repeating it is no error."
    )
    parser.add_argument("user_id", metavar="USER_ID", type=identifier)
    parser.add_argument("--dry-run", action="store_true", help="only count what would be erased")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Erases the user, and prints the account. Raises FeatureSyncError, ContractError or OSError if nothing was
    erased."""
    from feature_sync.personal_data.delete_user import delete_user

    account = delete_user(settings, options.user_id, dry_run=options.dry_run)
    print_indented(account.to_dict())
    for place in account.places:
        if place.problem:
            print(f"feature_sync: {place.place}: {place.problem}", file=sys.stderr)
    return 0 if account.complete else EXIT_INCOMPLETE

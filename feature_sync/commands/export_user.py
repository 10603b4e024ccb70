"""`export-user`: prints everything that is stored of a user."""

from __future__ import annotations

import argparse
import sys

from feature_sync.commands.report import print_indented
from feature_sync.core.settings import Settings
from tandem.ops.arguments import identifier

SUMMARY = "print everything that is stored of a user as one JSON document"
EXIT_INCOMPLETE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Prints everything that is stored of a user, place by place, as JSON. Exit status 1: a place could not be "
        "read, and says why."
    )
    parser.add_argument("user_id", metavar="USER_ID", type=identifier)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Prints the document."""
    from feature_sync.personal_data.export_user import export_user

    document, is_complete = export_user(settings, options.user_id)
    print_indented(document)
    if not is_complete:
        print("feature_sync: the document is incomplete: a place could not be read", file=sys.stderr)
    return 0 if is_complete else EXIT_INCOMPLETE

"""`dead-letters`: lists, replays or drops the entries of a stream that could not be applied."""

from __future__ import annotations

import argparse

from feature_sync.commands.report import print_indented
from feature_sync.core.settings import Settings
from tandem.contract.streams import ALL_STREAMS, EVENTS
from tandem.ops.arguments import whole_number

SUMMARY = "entries that could not be applied: list, replay, drop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = "Prints a report as JSON. Replaying applies each entry here and now; what fails again stays."
    parser.add_argument("action", choices=("list", "replay", "drop"))
    parser.add_argument("--stream", choices=ALL_STREAMS, default=EVENTS, help="default: %(default)s")
    parser.add_argument("--limit", type=whole_number(1), default=20, metavar="N", help="entries to list (%(default)s)")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Runs the action, and prints its report. Raises FeatureSyncError."""
    from feature_sync.operations.dead_letters import drop_dead_letters, list_dead_letters, replay_dead_letters

    if options.action == "list":
        print_indented(list_dead_letters(settings, options.stream, limit=options.limit))
    elif options.action == "replay":
        print_indented(replay_dead_letters(settings, options.stream))
    else:
        print_indented(drop_dead_letters(settings, options.stream))
    return 0

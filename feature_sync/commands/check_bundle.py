"""`check-bundle`: the process in which a bundle is checked before feature_sync opens it. Not for people."""

from __future__ import annotations

import argparse

from feature_sync.core.settings import Settings
from tandem.ops.arguments import path

SUMMARY = "internal: what checks a bundle before it is opened"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("directory", type=path, metavar="DIR", help="the bundle folder")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Prints a line of JSON: an empty object, or why the bundle is refused."""
    from tandem.ops.child_process import limit_memory, memory_for, reply

    limit_memory(memory_for(options.directory, megabytes=settings.bundle_check_memory_mb))
    from feature_sync.towers.bundle_check import refusal

    reply(refusal(options.directory))
    return 0

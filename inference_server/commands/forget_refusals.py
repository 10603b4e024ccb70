"""`forget-refusals`: lets a version that failed its check be tried again."""

from __future__ import annotations

import argparse
import asyncio

from inference_server.core.settings import Settings
from tandem.ops.arguments import word

SUMMARY = "let a version that failed its check be tried again"
PROCESS = "forget-refusals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "A version that failed its check is not tried again, also after a restart, until the alias has named another "
        "one. This forgets it: for refusals whose reason was on this machine."
    )
    parser.add_argument(
        "--model", type=word, metavar="ALIAS", help="a model that answers beside the server's own (default: the own)"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Asks the running server, or changes its data folder when none runs; prints what was done."""
    from inference_server.supervisor.operator_commands import run_command
    from inference_server.supervisor.operator_socket import Command

    return asyncio.run(run_command(settings, Command(name="forget-refusals", model=options.model)))

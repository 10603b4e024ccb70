"""`rollback`: goes back to the version that served before."""

from __future__ import annotations

import argparse
import asyncio

from inference_server.core.settings import Settings
from tandem.ops.arguments import word

SUMMARY = "go back to the version that served before, at once"
PROCESS = "rollback"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Has the running server of TANDEM_DATA_DIR answer with the version that served before, which it has still "
        "open, and moves the registry's alias there, so that every other server follows. A second rollback undoes the "
        "first. Without a running server the alias alone is moved. Exit status 1: not everything could be done; what "
        "could not is said on stderr."
    )
    parser.add_argument(
        "--to", type=word, metavar="VERSION", help="registry version to go to (default: the one before)"
    )
    parser.add_argument(
        "--model", type=word, metavar="ALIAS", help="a model that answers beside the server's own (default: the own)"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Asks the running server, or moves the alias when none runs; prints what was done."""
    from inference_server.supervisor.operator_commands import run_command
    from inference_server.supervisor.operator_socket import Command

    return asyncio.run(run_command(settings, Command(name="rollback", to=options.to, model=options.model)))

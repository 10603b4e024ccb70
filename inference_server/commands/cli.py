"""The server's command line: finds the command, reads the settings, runs it. What a command does is its module's.

Exit status: 0 done; 1 a refused bundle or policy file, workers that do not come up, a port that is taken, a command
that could not be done in full; 2 wrong arguments or settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from inference_server.commands import (
    check,
    check_policies,
    forget_refusals,
    fork_server,
    hash_key,
    rollback,
    serve,
)
from inference_server.core.errors import SettingsError
from inference_server.core.settings import Settings
from inference_server.telemetry.logs import configure_logging
from tandem.ops.environment_settings import settings_help
from tandem.ops.secrets import redacted
from tandem.ops.storage_errors import storage_error_line

EXIT_FAILED = 1
EXIT_USAGE = 2


class Command(Protocol):
    """A module of `inference_server.commands`."""

    SUMMARY: str
    PROCESS: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds what the command takes, and a description where SUMMARY does not say enough."""
        ...

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        """Runs the command; returns the exit status."""
        ...


_COMMANDS: Mapping[str, Command] = {
    "serve": serve,
    "check": check,
    "check-policies": check_policies,
    "hash-key": hash_key,
    "rollback": rollback,
    "forget-refusals": forget_refusals,
    "fork-server": fork_server,
}


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    command = _COMMANDS[options.command]
    try:
        settings = Settings.load()
        configure_logging(settings.log_level, process=command.PROCESS)
    except SettingsError as error:
        return _failed(str(error), EXIT_USAGE)
    try:
        return command.run(options, settings)
    except SettingsError as error:
        return _failed(str(error), EXIT_USAGE)
    except OSError as error:  # the disk is full, read-only or gone, or a right is missing
        structlog.get_logger().debug("storage_failed", exc_info=True)
        return _failed(storage_error_line(error, settings.data_dir), EXIT_FAILED)


def _failed(message: str, status: int) -> int:
    print(f"inference_server: {redacted(message)}", file=sys.stderr)
    return status


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m inference_server",
        description="Answers tandem.v1.RecommendationService from a bundle and the online store.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Settings (environment variables):\n{settings_help(Settings)}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        described = f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}."
        command.add_arguments(commands.add_parser(name, help=command.SUMMARY, description=described))
    return parser

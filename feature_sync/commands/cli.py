"""feature_sync's command line: finds the command, reads the settings, runs it. What a command does is its module's."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from feature_sync.commands import (
    check_bundle,
    dead_letters,
    delete_user,
    export_user,
    features,
    publish,
    rebuild,
    run,
    show,
    show_item,
    store,
)
from feature_sync.core.errors import FeatureSyncError, SettingsError, StorageError
from feature_sync.core.settings import Settings, load_settings
from tandem.contract.errors import ContractError
from tandem.ops.environment_settings import settings_help
from tandem.ops.secrets import RedactingFormatter, redact_event, redacted
from tandem.ops.storage_errors import storage_error_line

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class Command(Protocol):
    """A module of `feature_sync.commands`."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds what the command takes, and a description where SUMMARY does not say enough."""
        ...

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        """Runs the command; returns the exit status."""
        ...


_COMMANDS: Mapping[str, Command] = {
    "publish": publish,
    "rebuild": rebuild,
    "show": show,
    "show-item": show_item,
    "export-user": export_user,
    "delete-user": delete_user,
    "features": features,
    "run": run,
    "dead-letters": dead_letters,
    "store": store,
    "check-bundle": check_bundle,
}


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status: 0 done, 1 failed, 2 a wrong argument or setting, 130 Ctrl-C.

    4: `features reconcile` found differences.
    """
    options = build_parser().parse_args(arguments)
    try:
        settings = load_settings()
        _configure_logs(settings.log_level)
        return _run(options, settings)
    except SettingsError as error:
        print(f"feature_sync: {redacted(str(error))}", file=sys.stderr)
        return EXIT_USAGE
    except (FeatureSyncError, ContractError) as error:
        print(f"feature_sync: {redacted(str(error))}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _run(options: argparse.Namespace, settings: Settings) -> int:
    """Runs the command. A disk that is full, read-only or gone can end any of its steps: raises StorageError."""
    try:
        return _COMMANDS[options.command].run(options, settings)
    except OSError as error:
        structlog.get_logger().debug("storage_failed", exc_info=True)
        raise StorageError(storage_error_line(error, settings.data_dir)) from error


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m feature_sync",
        description="Brings user state and user vectors into the online store.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Settings (environment variables):\n{settings_help(Settings)}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        described = f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}."
        command.add_arguments(commands.add_parser(name, help=command.SUMMARY, description=described))
    return parser


def _configure_logs(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(levelname)s:%(name)s:%(message)s"))
    # Of the libraries' own logs, only warnings and errors are kept.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Not dict_tracebacks, which writes the local variables of every frame: settings, users' ids, events.
            structlog.processors.format_exc_info,
            redact_event,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

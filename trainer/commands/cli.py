"""The trainer's command line: finds the command, reads the settings, runs the command's module."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from tandem.contract.errors import ContractError
from tandem.ops.secrets import RedactingFormatter, redact_event, redacted
from tandem.ops.storage_errors import storage_error_line
from trainer.commands import (
    challenger,
    compare,
    drift,
    evaluate,
    export,
    features,
    prepare,
    promote,
    replay,
    rollback,
    train,
    tune,
    validate,
    versions,
)
from trainer.core.errors import ConfigError, StorageError, TrainerError
from trainer.core.settings import Settings, load_settings

log = structlog.get_logger()

EXIT_FAILED = 1
EXIT_USAGE = 2


class Command(Protocol):
    """A module of `trainer.commands`."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the arguments of the command."""
        ...

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        """Runs the command; returns the exit status."""
        ...


_COMMANDS: Mapping[str, Command] = {
    "prepare": prepare,
    "features": features,
    "train": train,
    "tune": tune,
    "evaluate": evaluate,
    "replay": replay,
    "compare": compare,
    "export": export,
    "drift": drift,
    "validate": validate,
    "promote": promote,
    "rollback": rollback,
    "challenger": challenger,
    "versions": versions,
}


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status: 0, 1 for a run that failed, 2 for a wrong argument or setting, 3 from
    `validate` for a version that the gate refused."""
    options = build_parser().parse_args(arguments)
    options.command_line = shlex.join(["python", "-m", "trainer", *arguments])
    try:
        settings = load_settings()
        _configure_logs(settings)
        return _run(options, settings)
    except ConfigError as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        return EXIT_USAGE
    except (TrainerError, ContractError) as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        return EXIT_FAILED


def _run(options: argparse.Namespace, settings: Settings) -> int:
    """Runs the command. A disk that is full, read-only or gone can end any of its steps: raises StorageError."""
    try:
        return _COMMANDS[options.command].run(options, settings)
    except OSError as error:
        log.debug("storage_failed", exc_info=True)
        raise StorageError(storage_error_line(error, settings.data_dir)) from error


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="From a file of interactions to a registered model. Environment: TANDEM_* (see docs/settings.md).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        described = f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}."
        command.add_arguments(commands.add_parser(name, help=command.SUMMARY, description=described))
    return parser


def _configure_logs(settings: Settings) -> None:
    level = getattr(logging, settings.log_level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact_event,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Of the libraries' own logs, only warnings and errors are kept.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(levelname)s:%(name)s:%(message)s"))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of its own gain nothing beside PyTorch's

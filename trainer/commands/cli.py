"""The trainer's command line: finds the command, reads the settings, runs the command's module."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence

import structlog

from tandem.contract.errors import ContractError
from tandem.ops.command_line import Command, Errors, Program
from tandem.ops.secrets import RedactingFormatter, redact_event
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
    replay_log,
    rollback,
    train,
    tune,
    validate,
    versions,
)
from trainer.core.errors import ConfigError, TrainerError
from trainer.core.settings import Settings, load_settings

_COMMANDS: Mapping[str, Command[Settings]] = {
    "prepare": prepare,
    "features": features,
    "train": train,
    "tune": tune,
    "evaluate": evaluate,
    "replay": replay,
    "replay-log": replay_log,
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
    """Runs one command; returns the exit status, see `tandem.ops.command_line`; 3 is that of `validate` for a version
    that the gate refused."""
    return program().main(arguments)


def program() -> Program[Settings]:
    """All commands, and what they have in common."""
    return Program(
        name="trainer",
        description="From a file of interactions to a registered model. Environment: TANDEM_* (see docs/settings.md).",
        commands=_COMMANDS,
        load_settings=load_settings,
        configure_logs=_configure_logs,
        errors=Errors(prefix="error", usage=(ConfigError,), failed=(TrainerError, ContractError)),
    )


def _configure_logs(settings: Settings, _: str) -> None:
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

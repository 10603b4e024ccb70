"""feature_sync's command line: finds the command, reads the settings, runs it. What a command does is its module's."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence

import structlog

from feature_sync.commands import (
    attribute,
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
from feature_sync.core.errors import FeatureSyncError, SettingsError
from feature_sync.core.settings import Settings, load_settings
from tandem.contract.errors import ContractError
from tandem.ops.command_line import Command, Errors, Program
from tandem.ops.environment_settings import settings_help
from tandem.ops.secrets import RedactingFormatter, redact_event

_COMMANDS: Mapping[str, Command[Settings]] = {
    "publish": publish,
    "rebuild": rebuild,
    "show": show,
    "show-item": show_item,
    "export-user": export_user,
    "delete-user": delete_user,
    "features": features,
    "attribute": attribute,
    "run": run,
    "dead-letters": dead_letters,
    "store": store,
    "check-bundle": check_bundle,
}


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status, see `tandem.ops.command_line`; 4 is that of `features reconcile` when
    it found differences."""
    return program().main(arguments)


def program() -> Program[Settings]:
    """All commands, and what they have in common."""
    return Program(
        name="feature_sync",
        description="Brings user state and user vectors into the online store.",
        epilog=f"Settings (environment variables):\n{settings_help(Settings)}",
        commands=_COMMANDS,
        load_settings=load_settings,
        configure_logs=lambda settings, _: _configure_logs(settings.log_level),
        errors=Errors(prefix="feature_sync", usage=(SettingsError,), failed=(FeatureSyncError, ContractError)),
    )


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

"""The server's command line: finds the command, reads the settings, runs it. What a command does is its module's.

Exit status: see `tandem.ops.command_line`. 1 is that of a refused bundle or policy file, workers that do not come up, a
port that is taken, a command that could not be done in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from inference_server.commands import (
    canary,
    check,
    check_experiments,
    check_policies,
    forget_refusals,
    fork_server,
    hash_key,
    replay_requests,
    rollback,
    serve,
    shadow,
)
from inference_server.core.errors import InferenceServerError, SettingsError
from inference_server.core.settings import Settings
from inference_server.telemetry.logs import configure_logging
from tandem.contract.errors import ContractError
from tandem.ops.command_line import Command, Errors, Program
from tandem.ops.environment_settings import settings_help


class ServerCommand(Command[Settings], Protocol):
    """A module of `inference_server.commands`."""

    PROCESS: str


_COMMANDS: Mapping[str, ServerCommand] = {
    "serve": serve,
    "check": check,
    "check-policies": check_policies,
    "check-experiments": check_experiments,
    "hash-key": hash_key,
    "replay-requests": replay_requests,
    "shadow": shadow,
    "rollback": rollback,
    "forget-refusals": forget_refusals,
    "canary": canary,
    "fork-server": fork_server,
}


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    return program().main(arguments)


def program() -> Program[Settings]:
    """All commands, and what they have in common."""
    return Program(
        name="inference_server",
        description="Answers tandem.v1.RecommendationService from a bundle and the online store.",
        epilog=f"Settings (environment variables):\n{settings_help(Settings)}",
        commands=_COMMANDS,
        load_settings=Settings.load,
        configure_logs=lambda settings, command: configure_logging(
            settings.log_level, process=_COMMANDS[command].PROCESS
        ),
        errors=Errors(prefix="inference_server", usage=(SettingsError,), failed=(InferenceServerError, ContractError)),
    )

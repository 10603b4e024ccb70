"""`shadow`: shows how the answers of a shadow model compare with the server's own."""

from __future__ import annotations

import argparse
import asyncio

from inference_server.core.settings import Settings

SUMMARY = "compare the shadow model's answers with those of the server's own model"
PROCESS = "shadow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Asks the running server of TANDEM_DATA_DIR what its workers have counted of each model of "
        "TANDEM_SHADOW_MODEL since the versions that serve now, and prints a verdict and a table "
        "(docs/experiments.md). Exit status 1: no server runs, or it has no shadow."
    )


def run(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - it takes no options
    """Asks the running server and prints its report."""
    from inference_server.supervisor.operator_commands import run_command
    from inference_server.supervisor.operator_socket import Command

    return asyncio.run(run_command(settings, Command(name="shadow")))

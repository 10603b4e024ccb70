"""`canary`: lets a new version take traffic in steps, and says how it does."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import socket

from inference_server.canary.plan import DEFAULT_STEP_ANSWERS, DEFAULT_STEP_SECONDS, DEFAULT_STEPS, Plan, parsed_steps
from inference_server.core.settings import Settings
from tandem.contract.names import CHALLENGER
from tandem.ops.arguments import word

SUMMARY = "let a new version take traffic in steps, and take it back by itself when it is worse"
PROCESS = "canary"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "A canary answers a growing share of the users of TANDEM_MODEL_ALIAS, beside a control group of the same size. "
        "It is taken back when it is worse, and becomes the champion when it has passed all steps. Its state is in the "
        "registry: every server of the alias follows it."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="start|status|stop|promote")
    start = actions.add_parser("start", help="begin with the first step")
    start.add_argument(
        "--model", type=word, default=CHALLENGER, metavar="ALIAS|VERSION", help="the new version (default: %(default)s)"
    )
    start.add_argument(
        "--steps",
        default=",".join(f"{step:g}" for step in DEFAULT_STEPS),
        metavar="PERCENTS",
        help="shares of the users, ascending to 100 (default: %(default)s)",
    )
    start.add_argument(
        "--step-seconds",
        type=float,
        default=DEFAULT_STEP_SECONDS,
        metavar="SECONDS",
        help="shortest time of a step (default: %(default)g)",
    )
    start.add_argument(
        "--step-answers",
        type=int,
        default=DEFAULT_STEP_ANSWERS,
        metavar="ANSWERS",
        help="fewest answers by the canary in a step (default: %(default)s)",
    )
    start.add_argument("--force", action="store_true", help="also a version that the gate has not passed")
    actions.add_parser("status", help="say where the newest canary stands")
    actions.add_parser("stop", help="take the canary back")
    actions.add_parser("promote", help="make the canary the champion now")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Asks the running server, or does it here when none runs; prints what was done. Raises CanaryInvalid."""
    from inference_server.supervisor.operator_commands import run_command
    from inference_server.supervisor.operator_socket import Command

    command = Command(name=f"canary-{options.action}", by=_who())
    if options.action == "start":
        plan = Plan(
            steps=parsed_steps(options.steps), step_seconds=options.step_seconds, step_answers=options.step_answers
        )
        command = Command(
            name=command.name, by=command.by, model=options.model, plan=plan.to_json(), force=options.force
        )
    return asyncio.run(run_command(settings, command))


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"

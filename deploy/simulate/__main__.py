"""The command line of the simulator. See --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from deploy.local.errors import StackError
from deploy.simulate import command
from deploy.simulate.demo import DemoSettings, demo
from deploy.simulate.errors import SimulationError, UsageError
from tandem.ops.arguments import path
from tandem.ops.command_line import Errors, exit_status
from tandem.ops.process_start import start_process

_ERRORS = Errors(prefix="simulate", usage=(UsageError,), failed=(SimulationError, StackError))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status, see `tandem.ops.command_line`."""
    return exit_status(lambda: _run(arguments), _ERRORS)


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "world":
        return command.make(options)
    if options.command == "run":
        return command.run(options)
    return demo(
        DemoSettings(
            folder=options.folder or Path(".tandem", "demo-experiment", f"{datetime.now(UTC):%Y%m%dT%H%M%S}"),
            world=command.world_settings(options),
            is_challenger_better=options.challenger == "better",
            rate=options.rate,
            concurrency=options.concurrency,
            seconds_per_day=options.seconds_per_day,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.simulate",
        description="Simulated users with tastes, who drive a served stack. See docs/simulate.md.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    world = commands.add_parser("world", help="write the data set of a simulated shop, for `trainer prepare`")
    world.add_argument("folder", type=path, metavar="DIR", help="a new folder")
    command.add_world_arguments(world)
    run = commands.add_parser("run", help="drive a served stack with the users of a world; print what happened")
    command.add_run_arguments(run)
    whole = commands.add_parser("demo", help="the whole loop: two models, an experiment, its verdict, a nightly run")
    whole.add_argument(
        "--folder", type=path, metavar="DIR", help="a new folder (default: one in .tandem/demo-experiment, by time)"
    )
    whole.add_argument(
        "--challenger",
        choices=("better", "worse"),
        default="better",
        help="whether the challenger is truly better or worse than the champion (default: better)",
    )
    command.add_world_arguments(whole)
    command.add_load_arguments(whole)
    return parser


if __name__ == "__main__":
    start_process()
    sys.exit(main())

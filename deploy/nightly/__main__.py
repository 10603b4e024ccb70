"""Command line of the nightly run. See --help."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from deploy.nightly.errors import NightlyError, SettingsError
from deploy.nightly.run import run_night, summary
from deploy.nightly.serving import wait_until_served
from deploy.nightly.settings import load_settings
from deploy.nightly.steps import EXIT_REFUSED
from tandem.ops.arguments import moment, word
from tandem.ops.command_line import Errors, exit_status
from tandem.ops.process_start import start_process

_ERRORS = Errors(prefix="nightly", usage=(SettingsError,), failed=(NightlyError,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status, see `tandem.ops.command_line`; 3 means that the gate refused the
    candidate. With any status except 0, the previous champion keeps serving."""
    return exit_status(lambda: _run(arguments), _ERRORS)


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    settings = load_settings()
    if options.command == "wait":
        print(json.dumps(wait_until_served(options.model_version, settings)))
        return 0
    result = run_night(settings, options.until, full=True if options.full else None)
    print(summary(result), file=sys.stderr)
    print(json.dumps(result))
    return 0 if result["served"] else EXIT_REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.nightly",
        description="From new events to a served model: ingest, drift, train, validate, promote, publish, serve.",
        epilog="Settings are environment variables TANDEM_NIGHTLY_*, see docs/pipelines.md; the programs read theirs.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    night = commands.add_parser("run", help="the whole run; prints the wall time of every step, and one JSON line")
    night.add_argument(
        "--until",
        type=moment,
        default=datetime.now(UTC),
        metavar="TIME",
        help="events of the days that began before this moment, ISO 8601, UTC without an offset (default: now)",
    )
    night.add_argument("--full", action="store_true", help="train in full, whatever the weekday and drift say")
    wait = commands.add_parser("wait", help="return once the server serves a model; prints its status")
    wait.add_argument("model_version", type=word, metavar="MODEL_VERSION")
    return parser


if __name__ == "__main__":
    start_process()
    sys.exit(main())

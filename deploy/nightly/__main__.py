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
from tandem.ops.process_start import start_process
from tandem.ops.secrets import redacted


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 failed, 2 a wrong argument or setting, 3 refused.

    3 means that the gate refused the candidate. With any status except 0, the previous champion keeps serving.
    """
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        if options.command == "wait":
            print(json.dumps(wait_until_served(options.model_version, settings)))
            return 0
        result = run_night(settings, options.until, full=True if options.full else None)
    except SettingsError as error:
        print(f"nightly: {redacted(str(error))}", file=sys.stderr)
        return 2
    except NightlyError as error:
        print(f"nightly: {redacted(str(error))}", file=sys.stderr)
        return 1
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
        type=_moment,
        default=datetime.now(UTC),
        metavar="TIME",
        help="events of the days that began before this moment, ISO 8601, UTC without an offset (default: now)",
    )
    night.add_argument("--full", action="store_true", help="train in full, whatever the weekday and drift say")
    wait = commands.add_parser("wait", help="return once the server serves a model; prints its status")
    wait.add_argument("model_version", metavar="MODEL_VERSION")
    return parser


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


if __name__ == "__main__":
    start_process()
    sys.exit(main())

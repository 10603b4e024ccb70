"""The command line of the local stack, which `make run` and `make smoke` use. See --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from deploy.local.errors import SettingsError, StackError
from deploy.local.settings import Settings, load_settings
from deploy.local.stack import run, smoke
from tandem.ops.command_line import Errors, exit_status
from tandem.ops.process_start import start_process

_ERRORS = Errors(prefix="tandem", usage=(SettingsError,), failed=(StackError,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status, see `tandem.ops.command_line`."""
    return exit_status(lambda: _run(arguments), _ERRORS)


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    train_arguments = ["--dataset", options.dataset]
    for name in ("reviews", "meta"):
        if value := getattr(options, name):
            train_arguments += [f"--{name}", value]
    for setting in options.set:
        train_arguments += ["--set", setting]
    command = run if options.command == "run" else smoke
    return command(load_settings(), tuple(train_arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local",
        description="Runs store, training, publishing and server on this machine.",
        epilog="Settings are environment variables TANDEM_*: "
        + ", ".join(f"TANDEM_{name.upper()}" for name in Settings.model_fields)
        + "; the programs it starts read theirs as well.",
    )
    parser.add_argument("command", choices=("run", "smoke"), help="keep serving until Ctrl-C, or ask once and stop")
    parser.add_argument("--dataset", default="ml-100k", help="data set, as `python -m trainer train` takes it")
    parser.add_argument("--reviews", metavar="PATH", help="Amazon reviews file or URL")
    parser.add_argument("--meta", metavar="PATH", help="Amazon metadata file or URL")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="configuration of the trainer; repeatable"
    )
    return parser


if __name__ == "__main__":
    start_process()
    sys.exit(main())

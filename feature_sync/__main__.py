"""Command line of feature_sync: parse, read the settings, do one thing, report. See --help."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from feature_sync.commands.features import add_features_parser, run_features
from feature_sync.core.errors import FeatureSyncError, SettingsError
from feature_sync.core.settings import Settings, load_settings, settings_help
from tandem.contract.errors import ContractError
from tandem.contract.streams import EVENTS, ITEM_CHANGES

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 failed, 2 a wrong argument or setting, 130 Ctrl-C.

    4: `features reconcile` found differences.
    """
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        _configure_logs(settings.log_level)
        if options.command == "features":
            result, status = run_features(options, settings)
        else:
            result, status = _run(options, settings), 0
    except SettingsError as error:
        print(f"feature_sync: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (FeatureSyncError, ContractError) as error:
        print(f"feature_sync: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if result is not None:
        print(
            json.dumps(
                result, ensure_ascii=False, indent=2 if options.command.startswith(("show", "dead-letters")) else None
            )
        )
    return status


def _run(options: argparse.Namespace, settings: Settings) -> dict[str, object] | None:
    # Each command imports what it needs: the embedded store starts without ONNX Runtime, redis or pyarrow.
    if options.command == "store":
        from feature_sync.store.embedded_store import run_embedded_store

        run_embedded_store(settings.store_url, settings.data_dir)
    if options.command == "run":
        from feature_sync.service.run import run

        run(settings)
        return None
    if options.command == "dead-letters":
        return _dead_letters(options, settings)
    if options.command == "show":
        from feature_sync.commands.show_user import show_user

        return show_user(settings, options.user_id, bundle_dir=options.bundle)
    if options.command == "show-item":
        from feature_sync.commands.show_item import show_item

        return show_item(settings, options.item_id, bundle_dir=options.bundle)
    from feature_sync.publish.publish import publish

    return dataclasses.asdict(publish(settings, options.prepared, bundle_dir=options.bundle, force=options.force))


def _dead_letters(options: argparse.Namespace, settings: Settings) -> dict[str, object]:
    from feature_sync.commands import dead_letters as commands

    if options.action == "list":
        return commands.list_dead_letters(settings, options.stream, limit=options.limit)
    act = commands.replay_dead_letters if options.action == "replay" else commands.drop_dead_letters
    return act(settings, options.stream)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m feature_sync",
        description="Brings user state and user vectors into the online store.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Settings (environment variables):\n{settings_help()}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    publish = commands.add_parser(
        "publish",
        help="write state and vectors of all users of prepared data; idempotent, resumable",
        description="Writes every user's state and vector. Prints a report as one JSON line.",
    )
    publish.add_argument("--prepared", type=Path, required=True, metavar="DIR", help="folder of prepared data")
    publish.add_argument("--bundle", type=Path, metavar="DIR", help="a bundle folder, instead of the registry's alias")
    publish.add_argument("--force", action="store_true", help="look at every user even if published already")
    show = commands.add_parser("show", help="print one user's state and vector as JSON")
    show.add_argument("user_id", metavar="USER_ID")
    show.add_argument("--bundle", type=Path, metavar="DIR", help="a bundle folder, instead of the registry's alias")
    show_item = commands.add_parser("show-item", help="print one item of the live catalogue and its vectors as JSON")
    show_item.add_argument("item_id", metavar="ITEM_ID")
    show_item.add_argument(
        "--bundle", type=Path, metavar="DIR", help="a bundle folder, instead of champion and challenger"
    )
    add_features_parser(commands)
    commands.add_parser("run", help="apply events to the online store until SIGTERM or Ctrl-C")
    dead_letters = commands.add_parser(
        "dead-letters",
        help="entries that could not be applied: list, replay, drop",
        description="Prints a report as JSON. Replaying applies each entry here and now; what fails again stays.",
    )
    dead_letters.add_argument("action", choices=("list", "replay", "drop"))
    dead_letters.add_argument("--stream", choices=(EVENTS, ITEM_CHANGES), default=EVENTS, help="default: %(default)s")
    dead_letters.add_argument("--limit", type=int, default=20, metavar="N", help="entries to list (%(default)s)")
    commands.add_parser("store", help="run the embedded Valkey in the foreground, on the port of TANDEM_STORE_URL")
    return parser


def _configure_logs(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())

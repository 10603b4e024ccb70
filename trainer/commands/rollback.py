"""`rollback`: moves the champion's alias back to the champion before."""

from __future__ import annotations

import argparse
import json

from tandem.ops.arguments import word
from trainer.core.settings import Settings

SUMMARY = "make the previous champion the champion again; a second call undoes the first"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "--to", type=word, metavar="VERSION|ALIAS", help="go back to this version (default: the previous champion)"
    )
    parser.epilog = (
        "It moves the alias in the registry, and every server follows at its next poll. `python -m inference_server "
        "rollback` makes a running server go back at once, and moves the alias too."
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Goes back; the last line of the output is one JSON object for the next program."""
    from trainer.registry.registry import Registry
    from trainer.release.promotion import Promotion

    registry = Registry(settings)
    to = None if options.to is None else registry.find(options.to)
    moved = Promotion(registry, settings).roll_back(to)
    left = moved.previous.number if moved.previous else None
    print(
        f"version {moved.champion.number} ({moved.champion.model_version}) is the {settings.model_alias} again, "
        f"instead of version {left}"
    )
    print(json.dumps({"champion": moved.champion.number, "previous": left}))
    return 0

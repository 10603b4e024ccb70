"""`promote`: makes a registered version the champion."""

from __future__ import annotations

import argparse
import json

from tandem.ops.arguments import word
from trainer.core.settings import Settings

SUMMARY = "make a version that the gate has passed the champion; servers that follow the alias open it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "version", type=word, metavar="VERSION|ALIAS", help="number of a registered version, or an alias"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="promote the version without a pass of the gate, or after a roll-back from it",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Promotes; the last line of the output is one JSON object for the next program."""
    from trainer.registry.registry import Registry
    from trainer.release.promotion import Promotion

    registry = Registry(settings)
    moved = Promotion(registry, settings).promote(registry.find(options.version), force=options.force)
    previous = moved.previous.number if moved.previous else None
    print(
        f"version {moved.champion.number} ({moved.champion.model_version}) is the {settings.model_alias}; "
        + (f"before it: version {previous}" if previous else "there was none before it")
    )
    print(json.dumps({"champion": moved.champion.number, "previous": previous}))
    return 0

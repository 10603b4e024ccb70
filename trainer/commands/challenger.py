"""`challenger`: sets or clears the version that challenges the champion."""

from __future__ import annotations

import argparse
import json

from tandem.ops.arguments import word
from trainer.core.errors import ConfigError
from trainer.core.settings import Settings

SUMMARY = "point the alias challenger at a version that the gate has passed, or take the alias away"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "version", nargs="?", type=word, metavar="VERSION|ALIAS", help="number of a registered version, or an alias"
    )
    parser.add_argument("--clear", action="store_true", help="take the alias away")
    parser.add_argument("--force", action="store_true", help="also without a pass of the gate")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Sets or clears the alias; the last line of the output is one JSON object for the next program."""
    if bool(options.version) == options.clear:
        raise ConfigError("challenger: name either a version or --clear")
    from trainer.registry.registry import Registry
    from trainer.release.promotion import Promotion

    registry = Registry(settings)
    promotion = Promotion(registry, settings)
    if options.clear:
        cleared = promotion.clear_challenger()
        print("there was no challenger" if cleared is None else f"version {cleared.number} is no longer the challenger")
        print(json.dumps({"challenger": None}))
        return 0
    version = registry.find(options.version)
    promotion.set_challenger(version, force=options.force)
    print(f"version {version.number} ({version.model_version}) is the challenger")
    print(json.dumps({"challenger": version.number}))
    return 0

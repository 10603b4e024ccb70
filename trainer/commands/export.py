"""`export`: writes the bundle of a registered version into a folder."""

from __future__ import annotations

import argparse
import json

from tandem.ops.arguments import path, word
from trainer.core.settings import Settings

SUMMARY = "write the bundle of a registered version into a folder, and verify it there"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "--model",
        type=word,
        metavar="VERSION|ALIAS",
        help="number of a registered version, or an alias (default: the alias of TANDEM_MODEL_ALIAS)",
    )
    parser.add_argument("--output", type=path, required=True, metavar="FOLDER", help="a folder that does not exist yet")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Copies the bundle; the last line of the output is one JSON object for the next program."""
    from trainer.export.registered import export_registered
    from trainer.registry.registry import Registry

    registry = Registry(settings)
    version = registry.find(options.model or settings.model_alias)
    bundle = export_registered(registry, version, options.output)
    print(
        json.dumps(
            {
                "bundle": str(bundle.directory),
                "model_version": bundle.manifest.model_version,
                "registry_version": version.number,
                "files": len(bundle.manifest.files),
            }
        )
    )
    return 0

"""`features`: encodes the texts of a catalogue and lists the features that the towers will read."""

from __future__ import annotations

import argparse

from trainer.commands.arguments import (
    add_config_arguments,
    add_data_arguments,
    add_prepared_argument,
    data_source,
    train_config,
)
from trainer.core.settings import Settings

SUMMARY = "encode and cache the texts of the catalogue, print the features that the towers will read"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    add_data_arguments(parser)
    add_prepared_argument(parser)
    add_config_arguments(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Encodes; texts that are in the cache are not encoded again."""
    source, config = data_source(options), train_config(options)
    from trainer.data.prepare import prepare
    from trainer.features.encoded import encode
    from trainer.features.summary import feature_summary

    encoded = encode(prepare(source, settings.data_dir, engine=settings.engine), config, settings)
    print(feature_summary(encoded.dataset, encoded.schema, encoded.content_vectors))
    print(settings.data_dir / "embeddings")
    return 0

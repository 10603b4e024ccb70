"""`evaluate`: trains with several seeds and prints test metrics; registers nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.commands.arguments import (
    add_config_arguments,
    add_data_arguments,
    data_config,
    positive_int,
    train_config,
)
from trainer.settings import Settings

SUMMARY = "train with several seeds and print test metrics; registers nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    add_data_arguments(parser)
    add_config_arguments(parser)
    parser.add_argument("--seeds", type=positive_int, default=3, help="models to train (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="PATH", help="write PATH.json and PATH.md too")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Trains, evaluates, prints."""
    config_of_data, config = data_config(options), train_config(options)
    from trainer.evaluation.seeds import evaluate_seeds

    result = evaluate_seeds(config_of_data, config, settings, num_seeds=options.seeds)
    print(result.to_text())
    if options.output:
        Path(f"{options.output}.json").write_text(result.to_json() + "\n")
        Path(f"{options.output}.md").write_text(f"# Quality\n\n{result.to_text()}\n")
    return 0

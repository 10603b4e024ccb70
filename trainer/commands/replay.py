"""`replay`: replays the past, period by period, with incremental training beside full training."""

from __future__ import annotations

import argparse

from tandem.ops.arguments import whole_number
from trainer.commands.arguments import (
    add_config_arguments,
    add_data_arguments,
    add_output_argument,
    add_prepared_argument,
    data_source,
    train_config,
    write_figures,
)
from trainer.core.settings import Settings

SUMMARY = "replay the past: quality and time of incremental training beside those of full training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    add_data_arguments(parser)
    add_prepared_argument(parser)
    add_config_arguments(parser)
    parser.add_argument(
        "--days",
        type=whole_number(1),
        default=5,
        help="number of updates to replay, each with the same number of interactions (default: %(default)s)",
    )
    parser.add_argument(
        "--share",
        type=_share,
        default=0.2,
        help="share of the interactions, from the newest, that the updates and the period after them cover: above 0 "
        "and below 1 (default: %(default)s)",
    )
    add_output_argument(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Trains twice for every update; registers nothing."""
    source, config = data_source(options), train_config(options)
    from trainer.data.prepare import prepare
    from trainer.dataset.dataset import load_dataset
    from trainer.experiments.replay import replay
    from trainer.experiments.replay_report import ReplayReport

    prepared = prepare(source, settings.data_dir, engine=settings.engine)
    dataset = load_dataset(prepared.directory)
    steps = replay(dataset, config, settings, num_periods=options.days, share=options.share)
    report = ReplayReport(data=prepared.name, command=options.command_line, steps=steps)
    print(report.to_text())
    if options.output:
        write_figures(options.output, report.to_json(), f"# Incremental training\n\n{report.to_text()}")
    return 0


def _share(text: str) -> float:
    number = float(text)
    if not 0.0 < number < 1.0:
        raise argparse.ArgumentTypeError(f"{number} is not above 0 and below 1")
    return number

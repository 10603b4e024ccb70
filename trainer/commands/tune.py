"""`tune`: searches for a better configuration by metrics on the validation items."""

from __future__ import annotations

import argparse

from tandem.ops.arguments import whole_number, word
from trainer.commands.arguments import (
    add_config_arguments,
    add_data_arguments,
    data_config,
    train_config,
)
from trainer.core.settings import Settings

SUMMARY = "search for a better configuration on validation, and write it as a file that `train --config` takes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    add_data_arguments(parser)
    add_config_arguments(parser)
    parser.add_argument(
        "--study",
        type=word,
        metavar="NAME",
        help="name of the study; the same name resumes it (default: the data set's name)",
    )
    parser.add_argument(
        "--trials",
        type=whole_number(1),
        default=30,
        help="trials of the study, pruned ones and those of earlier calls included (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=whole_number(1), default=1, help="processes that run trials at once (default: %(default)s)"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Runs the remaining trials of the study; the last line of the output is the file of the best configuration."""
    config_of_data, config = data_config(options), train_config(options)
    from trainer.experiments.tuning.tune import TuneOptions, tune

    study = options.study or config_of_data.name
    tune_options = TuneOptions(study=study, num_trials=options.trials, workers=options.workers)
    result = tune(config_of_data, config, settings, tune_options)
    print(f"study {study}: {result.num_finished} trials finished, {result.num_pruned} pruned, {result.storage}")
    print(f"best: trial {result.best_trial}, validation NDCG@10 {result.best_value:.4f}")
    print(result.config_file)
    return 0

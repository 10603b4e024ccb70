"""`train`: from a data set to a registered model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainer.commands.arguments import (
    add_baselines_argument,
    add_config_arguments,
    add_data_arguments,
    data_config,
    train_config,
)
from trainer.settings import Settings

SUMMARY = "prepare, train, export, register, and promote past the gate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    add_data_arguments(parser)
    add_config_arguments(parser)
    parser.add_argument(
        "--if-needed", action="store_true", help="end early when the champion came from the same data and configuration"
    )
    add_baselines_argument(parser)
    parser.add_argument(
        "--report", type=Path, metavar="PATH", help="write the HTML report to PATH too; it is logged to MLflow anyway"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Trains; the last line of the output is one JSON object for the next program."""
    config_of_data, config = data_config(options), train_config(options)
    from trainer.run import RunOptions, train_and_register

    run_options = RunOptions(
        if_needed=options.if_needed,
        baselines=options.baselines,
        report_path=options.report,
        command=options.command_line,
    )
    result = train_and_register(config_of_data, config, settings, run_options)
    if result is None:  # a process of torchrun that helped; process 0 says what came of it
        return 0
    if result.decision is not None:
        print(result.prepared.report.to_text(), result.decision, sep="\n", file=sys.stderr)
    print(
        json.dumps(
            {
                "prepared": str(result.prepared.directory),
                "model_version": result.version.model_version,
                "registry_version": result.version.number,
                "trained": result.trained,
                "content_weight": result.content_weight,
                "item_item_weight": result.item_item_weight,
                "promoted": result.decision.promoted if result.decision else True,
                "sample_user_id": result.sample_user_id,
            }
        )
    )
    return 0

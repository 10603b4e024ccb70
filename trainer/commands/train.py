"""`train`: from a data set to a registered model."""

from __future__ import annotations

import argparse
import sys

from tandem.contract.numbers import finite_json
from tandem.ops.arguments import path
from trainer.commands.arguments import (
    add_baselines_argument,
    add_config_arguments,
    add_data_arguments,
    add_prepared_argument,
    data_source,
    train_config,
)
from trainer.core.settings import Settings

SUMMARY = "prepare, train, export, register, and promote past the gate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    add_data_arguments(parser)
    add_prepared_argument(parser)
    add_config_arguments(parser)
    parser.add_argument(
        "--if-needed",
        action="store_true",
        help="train only if the champion came from other data or another configuration",
    )
    parser.add_argument(
        "--warm-start",
        nargs="?",
        const="",
        metavar="ALIAS|VERSION",
        help="continue this registered version for a few epochs (without a value: the champion); if that is "
        "impossible, say why and train in full",
    )
    parser.add_argument(
        "--no-promote",
        action="store_true",
        help="register the model, but neither judge it (`validate` does) nor move the alias",
    )
    parser.add_argument(
        "--data-version",
        metavar="TEXT",
        help="version of the data in their version control, recorded with the model (default: TANDEM_DATA_VERSION)",
    )
    add_baselines_argument(parser)
    parser.add_argument(
        "--report", type=path, metavar="PATH", help="write the HTML report to PATH too; it is logged to MLflow anyway"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Trains; the last line of the output is one JSON object for the next program."""
    source, config = data_source(options), train_config(options)
    from trainer.data.checks import findings_text
    from trainer.pipeline.train_run import RunOptions, train_and_register

    run_options = RunOptions(
        if_needed=options.if_needed,
        baselines=options.baselines,
        report_path=options.report,
        warm_start=settings.model_alias if options.warm_start == "" else options.warm_start or "",
        promote=not options.no_promote,
        data_version=options.data_version or settings.data_version,
        command=options.command_line,
    )
    result = train_and_register(source, config, settings, run_options)
    if result is None:  # process 1 or above of torchrun: process 0 reports the result
        return 0
    if result.trained:
        findings = findings_text(result.prepared.findings)
        print(result.prepared.report.to_text(), findings, result.decision or "not judged", sep="\n", file=sys.stderr)
    from trainer.compute.device import process_peak_memory_bytes

    peak_memory_mib = process_peak_memory_bytes() >> 20
    print(f"peak memory of this process: {peak_memory_mib:,} MiB", file=sys.stderr)
    print(
        finite_json(
            {
                "prepared": str(result.prepared.directory),
                "model_version": result.version.model_version,
                "registry_version": result.version.number,
                "trained": result.trained,
                "warm_started_from": result.start.version_number,
                "full_training_because": result.start.why_not,
                **{f"{key}_weight": weight for key, weight in result.blend_weights.items()},
                "promoted": result.promoted,
                "peak_memory_mib": peak_memory_mib,
                "sample_user_id": result.sample_user_id,
            }
        )
    )
    return 0

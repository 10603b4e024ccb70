"""`compare`: puts runs side by side, with their baselines."""

from __future__ import annotations

import argparse

from tandem.ops.arguments import word
from trainer.commands.arguments import add_output_argument, write_comparison
from trainer.core.settings import Settings

SUMMARY = "put runs side by side, with the baselines they were measured against and paired tests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="number of a registered version, an alias, or a folder that `evaluate --model` wrote",
    )
    parser.add_argument(
        "--against",
        type=word,
        metavar="NAME",
        help="model or baseline to test all others against (default: the best that is not the first run's model)",
    )
    add_output_argument(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Reads the stored evaluations of the runs; measures nothing again."""
    from trainer.experiments.earlier_runs import compare_earlier
    from trainer.registry.registry import Registry
    from trainer.results.markdown import comparison_text

    comparison = compare_earlier(options.runs, Registry(settings), against=options.against or "")
    print(comparison_text(comparison))
    if options.output:
        write_comparison(comparison, options.output)
    return 0

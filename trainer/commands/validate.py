"""`validate`: has the gate judge a registered version."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.contract.numbers import finite_json
from tandem.ops.arguments import path, word
from trainer.commands.arguments import (
    add_config_arguments,
    add_data_arguments,
    add_prepared_argument,
    data_arguments,
    data_source,
    train_config,
)
from trainer.core.errors import ConfigError
from trainer.core.settings import Settings

if TYPE_CHECKING:
    from trainer.data.config import DataConfig
    from trainer.data.prepare import PreparedData
    from trainer.release.held_out_users import HeldOutSample

SUMMARY = "judge a registered version by the gate, as it is served, beside the champion"
EXIT_REFUSED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "version", type=word, metavar="VERSION|ALIAS", help="number of a registered version, or an alias"
    )
    parser.description = (
        "The serving engine answers held-out users with the version and with the champion. The gate judges the answers "
        "by the limits in the section gate of the training configuration (--help-config). The targets are the users' "
        "last interactions in --prepared or --dataset; without either, those of the users that the version's own "
        "bundle holds. Exit status 0: passed; 3: refused, and the output says why; 1: no verdict; 2: a wrong argument "
        "or setting."
    )
    parser.add_argument("--promote", action="store_true", help="make the version the champion if the gate passes it")
    parser.add_argument(
        "--report",
        type=path,
        metavar="PATH",
        help="write the report to PATH too, as HTML if PATH ends in .html, else as Markdown; MLflow gets both anyway, "
        "in the folder `gate` of the run that registered the version",
    )
    add_data_arguments(parser)
    add_prepared_argument(parser)
    add_config_arguments(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Validates; the last line of the output is one JSON object for the next program."""
    # Without either argument, data_source gives the default data set, which has nothing to do with the version.
    source = None if options.prepared is None and options.dataset is None else data_source(options)
    if source is None and (given := data_arguments(options)):
        raise ConfigError(f"{given[0]}: describes a data set, which --dataset must name")
    limits = train_config(options).gate
    from trainer.registry.registry import Registry
    from trainer.release.promotion import Promotion
    from trainer.release.validate import validate

    registry = Registry(settings)
    version = registry.find(options.version)
    validation = validate(
        registry, version, _held_out_sample(source, settings, limits.max_users), limits, report_path=options.report
    )
    print(validation.decision, f"report: {options.report or validation.report_uri}", sep="\n", file=sys.stderr)
    promoted = False
    if options.promote and validation.decision.passed:
        Promotion(registry, settings).promote(validation.version)
        promoted = True
    print(
        finite_json(
            {
                "registry_version": version.number,
                "model_version": version.model_version,
                "champion": validation.champion.number if validation.champion else None,
                "passed": validation.decision.passed,
                "promoted": promoted,
                "failures": [str(check) for check in validation.decision.failures],
                "metrics": validation.metrics,
                "report": str(options.report or validation.report_uri),
            }
        )
    )
    return 0 if validation.decision.passed else EXIT_REFUSED


def _held_out_sample(
    source: DataConfig | PreparedData | None, settings: Settings, max_users: int
) -> Callable[[Path], HeldOutSample]:
    """A function from the folder of the version's bundle to the held-out users. Raises DataError."""
    from trainer.release.held_out_users import sample_of_bundle, sample_of_dataset

    if source is None:
        return lambda bundle: sample_of_bundle(bundle, max_users=max_users)
    from trainer.data.prepare import prepare
    from trainer.dataset.dataset import load_dataset

    prepared = prepare(source, settings.data_dir, engine=settings.engine)
    sample = sample_of_dataset(load_dataset(prepared.directory), max_users=max_users, name=prepared.name)
    return lambda _: sample

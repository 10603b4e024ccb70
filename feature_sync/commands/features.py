"""`features`: the feature store. Each action prints its result as one JSON line, the last one of the output."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from typing import Final

from feature_sync.commands.report import print_line
from feature_sync.core.settings import Settings
from tandem.ops.arguments import moment, path, whole_number

SUMMARY = "the feature store: apply, materialize, training-set, reconcile, env"
EXIT_DIFFERENT: Final = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions and what each takes."""
    parser.description = "The feature store. Each command prints its result as one JSON line, the last one."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    apply = actions.add_parser("apply", help="write the sources and register views and services with Feast")
    _add_prepared(apply)

    materialize = actions.add_parser(
        "materialize", help="bring the sources up to date, and the online store with them; idempotent"
    )
    _add_prepared(materialize)
    _add_bundle(materialize)

    training_set = actions.add_parser(
        "training-set", help="write interactions with their features as of just before them, as Parquet"
    )
    _add_prepared(training_set)
    training_set.add_argument("--output", type=path, required=True, metavar="FILE", help="Parquet file to write")
    training_set.add_argument("--service", default="training", help="feature service (default: %(default)s)")
    training_set.add_argument("--since", type=moment, metavar="TIME", help="interactions from this time on (ISO 8601)")
    training_set.add_argument("--until", type=moment, metavar="TIME", help="interactions before this time (ISO 8601)")

    reconcile = actions.add_parser(
        "reconcile",
        help="compare Feast's online values with the serving keys",
        description="Prints every difference. Exit status 4 when values differ although serving has not moved on "
        "since the last materialisation.",
    )
    _add_bundle(reconcile)
    reconcile.add_argument(
        "--sample", type=whole_number(1), metavar="N", help="compare N users and N items, chosen at random"
    )
    reconcile.add_argument("--repair", action="store_true", help="write serving's values into Feast's online store")

    actions.add_parser("env", help="print the variables that Feast's own command line needs, for eval")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Runs one action. Raises FeatureSyncError or ContractError."""
    if options.action == "reconcile":
        return _reconcile(options, settings)
    if options.action == "env":
        from feature_sync.features.feast_store import feast_environment

        for name, value in feast_environment(settings).items():
            print(f"export {name}={shlex.quote(value)}")
    elif options.action == "apply":
        from feature_sync.features.update import apply

        print_line({"applied": apply(settings, options.prepared)})
    elif options.action == "materialize":
        from feature_sync.features.update import materialise

        print_line(dataclasses.asdict(materialise(settings, options.prepared, bundle_dir=options.bundle)))
    else:
        from feature_sync.features.training_set import write_training_set

        written = write_training_set(
            settings,
            options.prepared,
            options.output,
            service=options.service,
            since=options.since,
            until=options.until,
        )
        print_line(dataclasses.asdict(written))
    return 0


def _reconcile(options: argparse.Namespace, settings: Settings) -> int:
    from feature_sync.features.reconcile import reconcile

    report = reconcile(
        settings,
        lambda difference: print(difference.line()),
        bundle_dir=options.bundle,
        sample=options.sample,
        repair=options.repair,
    )
    print_line(dataclasses.asdict(report))
    return EXIT_DIFFERENT if report.num_different and not options.repair else 0


def _add_prepared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prepared", type=path, required=True, metavar="DIR", help="folder of prepared data")


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=path, metavar="DIR", help="a bundle folder, instead of the registry's alias")

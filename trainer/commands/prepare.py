"""`prepare`: reads and cleans a data set, profiles it, and splits it on request."""

from __future__ import annotations

import argparse

from tandem.contract.numbers import finite_json
from tandem.ops.arguments import whole_number
from trainer.commands.arguments import add_data_arguments, data_config
from trainer.core.settings import Settings

SUMMARY = "read and clean a data set, print the counts of dropped rows, its profile and the folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    add_data_arguments(parser)
    parser.add_argument(
        "--split",
        choices=("leave-last-out", "random", "time"),
        action="append",
        default=[],
        help="write the part of each interaction (train, validation or test) to a file beside the prepared data; "
        "repeatable (default: none)",
    )
    parser.add_argument(
        "--split-seed", type=whole_number(0), default=0, help="seed of the random split (default: %(default)s)"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Prepares the data set, unless it is prepared already; the last line of the output is one JSON object."""
    from trainer.data.checks import findings_text, findings_to_dicts
    from trainer.data.prepare import prepare
    from trainer.data.profile import profile

    prepared = prepare(data_config(options), settings.data_dir, engine=settings.engine)
    print(prepared.report.to_text())
    print(profile(prepared).to_text())
    if options.split:
        from trainer.data.split_files import write_split
        from trainer.dataset.dataset import load_dataset
        from trainer.dataset.splits import draw_splits

        dataset = load_dataset(prepared.directory)
        for kind in options.split:
            splits = draw_splits(dataset, kind, seed=options.split_seed)
            print(f"split {kind}: {write_split(splits, dataset, prepared)}, fingerprint {splits.fingerprint}")
    print(findings_text(prepared.findings))
    findings = findings_to_dicts(prepared.findings)
    print(finite_json({"prepared": str(prepared.directory), **prepared.counts(), "findings": findings}))
    return 0

"""`prepare`: reads and cleans a data set."""

from __future__ import annotations

import argparse

from trainer.commands.arguments import add_data_arguments, data_config
from trainer.settings import Settings

SUMMARY = "read and clean a data set, print the cleaning report and the folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    add_data_arguments(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Prepares the data set, or finds it prepared."""
    from trainer.data.prepare import prepare

    prepared = prepare(data_config(options), settings.data_dir, engine=settings.engine)
    print(prepared.report.to_text())
    print(prepared.directory)
    return 0

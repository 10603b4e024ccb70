"""`drift`: whether recent events, and what the champion makes of them, still look like those before."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.arguments import add_data_arguments, add_prepared_argument, data_source
from trainer.core.settings import Settings

if TYPE_CHECKING:
    from trainer.drift.windows import Windows

SUMMARY = "compare recent events with those before: inputs, scores, recommended items, user vectors"
_WINDOW = "FOLDER|FROM..UNTIL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    add_data_arguments(parser)
    add_prepared_argument(parser)
    parser.add_argument(
        "--reference",
        metavar=_WINDOW,
        help="a folder of prepared data, or a part of time (default: TANDEM_DRIFT_REFERENCE_DAYS before recent ones)",
    )
    parser.add_argument(
        "--recent", metavar=_WINDOW, help="the same for what is compared (default: the newest TANDEM_DRIFT_RECENT_DAYS)"
    )
    parser.add_argument(
        "--model",
        default="",
        metavar="VERSION|ALIAS",
        help="whose scores, lists and vectors are compared (default: the alias of TANDEM_MODEL_ALIAS)",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Compares; the last line of the output is one JSON object for the next program. Drift is no failure."""
    from trainer.drift.run import measure_drift

    windows = _windows(options, settings)
    print(json.dumps(measure_drift(windows, options.model, settings).to_dict()))
    return 0


def _windows(options: argparse.Namespace, settings: Settings) -> Windows | None:
    """The windows that were asked for; None where there is nothing to compare. Raises ConfigError, DataError."""
    from trainer.data.prepare import prepare
    from trainer.dataset.dataset import load_dataset
    from trainer.drift.windows import Window, Windows, days_before, newest_days, parse_span, whole

    def given(text: str) -> Window:
        return whole(load_dataset(Path(text))) if Path(text).is_dir() else Window(main, parse_span(text))

    if all(text and Path(text).is_dir() for text in (options.reference, options.recent)):
        reference, recent = (load_dataset(Path(text)) for text in (options.reference, options.recent))
        return Windows(reference=whole(reference), recent=whole(recent))
    prepared = prepare(data_source(options), settings.data_dir, engine=settings.engine)
    main = load_dataset(prepared.directory)
    newest = given(options.recent) if options.recent else newest_days(main, settings.drift_recent_days)
    days = settings.drift_reference_days
    before = given(options.reference) if options.reference else days_before(main, days, end=newest.span.start)
    return None if before is None else Windows(reference=before, recent=newest)

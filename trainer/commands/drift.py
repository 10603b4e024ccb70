"""`drift`: compares recent events, and the champion's answers to them, with those of an earlier window."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.contract.numbers import finite_json
from tandem.ops.arguments import word
from trainer.commands.arguments import add_data_arguments, add_prepared_argument, data_source
from trainer.core.settings import Settings

if TYPE_CHECKING:
    from trainer.drift.windows import Windows

SUMMARY = "compare recent events with earlier ones: inputs, scores, recommended items, user vectors"
_WINDOW = "FOLDER|FROM..UNTIL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    add_data_arguments(parser)
    add_prepared_argument(parser)
    parser.add_argument(
        "--reference",
        metavar=_WINDOW,
        help="the earlier events: a folder of prepared data, or a time range (default: the "
        "TANDEM_DRIFT_REFERENCE_DAYS days before the recent events)",
    )
    parser.add_argument(
        "--recent",
        metavar=_WINDOW,
        help="the recent events, given in the same way (default: the newest TANDEM_DRIFT_RECENT_DAYS days)",
    )
    parser.add_argument(
        "--model",
        type=word,
        metavar="VERSION|ALIAS",
        help="version whose scores, lists and vectors are compared (default: the alias of TANDEM_MODEL_ALIAS)",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Compares; the last line of the output is one JSON object for the next program. Drift is not a failure."""
    from trainer.drift.run import measure_drift

    windows = _windows(options, settings)
    print(finite_json(measure_drift(windows, options.model or "", settings).to_dict()))
    return 0


def _windows(options: argparse.Namespace, settings: Settings) -> Windows | None:
    """The windows that the arguments name; None if no events precede the recent ones. Raises ConfigError, DataError."""
    from trainer.data.prepare import prepare
    from trainer.dataset.dataset import load_dataset
    from trainer.drift.windows import Window, Windows, days_before, newest_days, parse_span, whole

    def window_of(text: str) -> Window:
        return whole(load_dataset(Path(text))) if Path(text).is_dir() else Window(main, parse_span(text))

    if all(text and Path(text).is_dir() for text in (options.reference, options.recent)):
        reference, recent = (load_dataset(Path(text)) for text in (options.reference, options.recent))
        return Windows(reference=whole(reference), recent=whole(recent))
    prepared = prepare(data_source(options), settings.data_dir, engine=settings.engine)
    main = load_dataset(prepared.directory)
    newest = window_of(options.recent) if options.recent else newest_days(main, settings.drift_recent_days)
    days = settings.drift_reference_days
    before = window_of(options.reference) if options.reference else days_before(main, days, end=newest.span.start)
    return None if before is None else Windows(reference=before, recent=newest)

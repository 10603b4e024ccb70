"""`attribute`: what came of what was shown."""

from __future__ import annotations

import argparse
import functools
from datetime import UTC, datetime, timedelta

import structlog

from feature_sync.attribution.question import REPORT, SLOW_MS, Question
from feature_sync.commands.report import print_line
from feature_sync.core.errors import StoreError
from feature_sync.core.settings import Settings
from tandem.contract.streams import EVENTS, IMPRESSIONS
from tandem.ops.arguments import moment, number, path, word

SUMMARY = "join events to what was shown: rates, revenue, experiments; as Parquet, JSON and HTML"

_DEFAULT_DAYS = 28

_log = structlog.get_logger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Joins the archived events to the archived impressions and reports what came of what was shown, by day, "
        "scenario, placement, position, model and arm, with a verdict for every experiment. Run it again, and events "
        "that came late count too. Prints the report in short as one JSON line."
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=moment,
        metavar="TIME",
        help=f"answers of this time or later, ISO 8601, UTC (default: {_DEFAULT_DAYS} days before --to)",
    )
    parser.add_argument("--to", dest="end", type=moment, metavar="TIME", help="answers before this time (default: now)")
    parser.add_argument(
        "--window",
        type=number(0.001, 366),
        default=7.0,
        metavar="DAYS",
        help="longest time between an answer and what came of it (default: %(default)g)",
    )
    parser.add_argument(
        "--lookback",
        type=number(0, 366),
        default=28.0,
        metavar="DAYS",
        help="how far back users are compared before an experiment (default: %(default)g)",
    )
    parser.add_argument(
        "--session-key",
        type=word,
        default="sessionId",
        metavar="KEY",
        help="key of the request's context that tells anonymous users apart (default: %(default)s)",
    )
    parser.add_argument(
        "--slow-ms",
        type=number(0.001, 60_000),
        default=SLOW_MS,
        metavar="MS",
        help="an answer that took the server longer is slow: the guardrail slow_share (default: %(default)g)",
    )
    parser.add_argument("--plans", type=path, metavar="FILE", help="YAML file of the experiments' plans")
    parser.add_argument(
        "--output", type=path, metavar="DIR", help="folder of the report (default: attribution/ in the data folder)"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Writes the report, and prints it in short. Raises FeatureSyncError."""
    from feature_sync.attribution.report import attribute

    end = options.end or datetime.now(UTC)
    question = Question(
        impressions=settings.data_dir / IMPRESSIONS,
        events=settings.data_dir / EVENTS,
        start=options.start or end - timedelta(days=_DEFAULT_DAYS),
        end=end,
        window_seconds=options.window * 86_400,
        lookback_seconds=options.lookback * 86_400,
        slow_ms=options.slow_ms,
        session_key=options.session_key,
        plans=options.plans,
    )
    output = options.output or settings.data_dir / REPORT
    print_line(attribute(question, output, named_shares=functools.cache(lambda: _named_shares(settings))))
    return 0


def _named_shares(settings: Settings) -> dict[str, dict[str, float]]:
    """Shares of arms by experiment, as servers named them in the online store; none if it is away."""
    from feature_sync.store.connection import StoreConnection
    from feature_sync.store.served_models import experiment_shares

    try:
        with StoreConnection(settings.store_url) as connection:
            return experiment_shares(connection)
    except StoreError as error:
        effect = "equal shares are expected of experiments without a plan"
        _log.warning("shares_unknown", error=str(error), effect=effect)
        return {}

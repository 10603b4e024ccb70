"""`replay-log`: estimates from logged answers what another model version or policy would have earned."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tandem.ops.arguments import moment, number, path, whole_number, word
from trainer.commands.arguments import add_output_argument, write_figures
from trainer.core.errors import ConfigError
from trainer.core.settings import Settings

SUMMARY = "estimate from logged answers what another model version or policy would have earned"
_EVENT_TYPES = ("click", "add_to_cart", "purchase", "rating", "dwell")
_MAX_POSITIONS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = (
        "Reads the impressions and events that feature_sync archived, has the serving engine order the candidates of "
        "each answer by the version and the policies given here, and estimates from the logged propensities what the "
        "answers would have earned. Only answers that explored can tell (`exploration` in a policy). Where the log "
        "cannot tell, it says so, and why. Exit status 0, also then."
    )
    judged = parser.add_argument_group("what is judged")
    bundle = judged.add_mutually_exclusive_group(required=True)
    bundle.add_argument(
        "--model", type=word, metavar="VERSION|ALIAS", help="number of a registered version, or an alias"
    )
    bundle.add_argument("--bundle", type=path, metavar="DIR", help="a bundle folder instead of a registered version")
    judged.add_argument(
        "--policies", type=path, metavar="FILE", help="policies to answer by (default: the built-in policy)"
    )
    judged.add_argument(
        "--scenario", type=word, metavar="NAME", help="scenario to answer by (default: the default policy)"
    )
    log = parser.add_argument_group("log")
    log.add_argument(
        "--prepared",
        type=path,
        metavar="DIR",
        required=True,
        help="a folder that `prepare` printed: the users' histories before each answer, so prepare with --events",
    )
    log.add_argument(
        "--impressions",
        type=path,
        metavar="DIR",
        help="archive of impressions (default: impressions in the data folder)",
    )
    log.add_argument(
        "--events", type=path, metavar="DIR", help="archive of events (default: events in the data folder)"
    )
    log.add_argument("--since", type=_day, metavar="DAY", help="first day of the log (default: all)")
    log.add_argument("--until", type=_day, metavar="DAY", help="last day of answers (default: all)")
    log.add_argument(
        "--logged-scenario",
        type=_scenario,
        metavar="NAME",
        help="scenario of the answers that are read; '' for answers by the default policy (default: that of "
        "--scenario)",
    )
    log.add_argument(
        "--max-answers",
        type=whole_number(1),
        default=100_000,
        help="judge at most so many answers, of users drawn with a fixed seed (default: %(default)s)",
    )
    counted = parser.add_argument_group("what is counted")
    counted.add_argument(
        "--reward",
        choices=_EVENT_TYPES,
        default="click",
        help="type of the events that are earned: items with such an event, or the seconds of dwell (default: "
        "%(default)s)",
    )
    counted.add_argument(
        "--positions",
        type=whole_number(1, _MAX_POSITIONS),
        default=10,
        help="count the first so many positions of an answer (default: %(default)s)",
    )
    counted.add_argument(
        "--click-model",
        choices=("position-based", "item-position"),
        default="position-based",
        help="what is assumed of clicks: appeal of the item times examination of the position, or only that other "
        "items of the answer do not matter, which needs a log about ten times as long (default: %(default)s)",
    )
    counted.add_argument(
        "--max-weight",
        type=number(1.0, 1e12),
        help="clip larger weights (default: a fiftieth of the number of logged items)",
    )
    add_output_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of text")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Judges the version and policy, and prints the result."""
    if options.since and options.until and options.since > options.until:
        raise ConfigError(f"--since {options.since}: is after --until {options.until}")
    from trainer.data.archive import archived_files
    from trainer.data.prepare import load_prepared
    from trainer.dataset.dataset import load_dataset
    from trainer.off_policy.replay_log import Judged, Options, replay_log
    from trainer.off_policy.report import to_json, to_text

    impressions = archived_files(
        options.impressions or settings.data_dir / "impressions", since=options.since or "", until=options.until or ""
    )
    events = archived_files(options.events or settings.data_dir / "events", since=options.since or "")
    dataset = load_dataset(load_prepared(options.prepared).directory)
    with ExitStack() as stack:
        bundle = options.bundle
        if bundle is None:
            from trainer.registry.registry import Registry

            registry = Registry(settings)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-replay-log-"))
            bundle = registry.download(registry.find(options.model), Path(scratch))
        result = replay_log(
            impressions,
            events,
            dataset,
            Judged(bundle=bundle, policies=options.policies, scenario=options.scenario or ""),
            Options(
                event_type=options.reward,
                logged_scenario=(
                    (options.scenario or "") if options.logged_scenario is None else options.logged_scenario
                ),
                num_positions=options.positions,
                max_answers=options.max_answers,
                max_weight=options.max_weight,
                click_model=options.click_model,
            ),
        )
    print(to_json(result) if options.json else to_text(result))
    if options.output:
        write_figures(
            options.output, to_json(result), f"# Replayed log\n\n`{options.command_line}`\n\n{to_text(result)}"
        )
    return 0


def _scenario(text: str) -> str:
    return word(text) if text else text


def _day(text: str) -> str:
    return moment(text).date().isoformat()

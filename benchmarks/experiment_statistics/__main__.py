"""`python -m benchmarks.experiment_statistics`: writes benchmarks/results/experiment-statistics.md; minutes."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.environment.bench import say
from benchmarks.environment.machine import describe_machine
from benchmarks.experiment_statistics.proof import Counts, required_users, run
from benchmarks.experiment_statistics.simulation import GOALS, Shop, metrics
from benchmarks.reporting.tables import table

_OUTPUT: Final = Path("benchmarks/results/experiment-statistics.md")
_SEED: Final = 16
_ALPHA: Final = 0.05
_POWER: Final = 0.8


@dataclass(frozen=True, kw_only=True)
class _Null:
    """A/A experiments."""

    title: str
    shop: Shop
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class _Planted:
    """Experiments with a lift, of as many users as are required for it."""

    goal: str
    shop: Shop
    counts: Counts


def measure(*, experiments: int, planted: int, processes: int) -> str:
    """Simulates everything and returns the page."""
    nulls = []
    for title, shop, share in (
        ("half and half", Shop(), 1.0),
        ("5 % in the new arm", Shop(num_users=6_000, arm_share=0.05), 0.2),
    ):
        say(f"A/A, {title}")
        counts = run(shop, experiments=round(share * experiments), seed=_SEED, processes=processes)
        say(f"{counts}")
        nulls.append(_Null(title=title, shop=shop, counts=counts))
    lifts = []
    for name, lift in (("ctr", 0.08), ("conversion", 0.4)):
        (goal,) = metrics((name,))
        goal = replace(goal, minimum_lift=lift)
        shop = Shop(lift=lift)
        shop = replace(shop, num_users=required_users(shop, goal, pilots=20, seed=_SEED))
        say(f"{name} with a lift of {lift:.0%}: {shop.num_users} users")
        counts = run(shop, experiments=planted, seed=_SEED, goals=(goal,), processes=processes)
        say(f"{counts}")
        lifts.append(_Planted(goal=name, shop=shop, counts=counts))
    return _page(nulls, lifts)


def _page(nulls: list[_Null], lifts: list[_Planted]) -> str:
    machine = describe_machine()
    decisions = table(
        (
            "arms",
            "users at the end",
            "experiments",
            "a goal called better or worse, ever",
            "shipped, ever",
            "stopped as worse, ever",
            "fixed horizon with Holm, ever",
            "sample ratio warned, ever",
            "sample ratio invalid, ever",
        ),
        [
            (
                null.title,
                f"{null.shop.num_users:,}",
                f"{null.counts.experiments:,}",
                *(
                    _share(count, null.counts)
                    for count in (
                        null.counts.decided,
                        null.counts.shipped,
                        null.counts.stopped,
                        null.counts.fixed_decided,
                        null.counts.warned,
                        null.counts.invalid,
                    )
                ),
            )
            for null in nulls
        ],
    )
    by_metric = table(
        (
            "arms",
            "metric",
            "anytime-valid, any of 20 looks",
            "relative interval misses 0, any look",
            "fixed horizon, any of 20 looks",
            "fixed horizon, last look",
        ),
        [
            (
                null.title,
                name,
                *(
                    _share(count, null.counts)
                    for count in (found.anytime_ever, found.missed_ever, found.fixed_ever, found.fixed_last)
                ),
            )
            for null in nulls
            for name, found in null.counts.metrics.items()
        ],
    )
    power = table(
        (
            "goal",
            "lift",
            "users required",
            "experiments",
            "power computed",
            "found by the last look",
            "median day of 20",
            "called worse, ever",
            "relative interval misses the lift, any look",
        ),
        [
            (
                planted.goal,
                f"{planted.shop.lift:.0%}",
                f"{planted.shop.num_users:,}",
                planted.counts.experiments,
                f"{_POWER:.0%}",
                _share(len(planted.counts.found_by), planted.counts),
                sorted(planted.counts.found_by)[len(planted.counts.found_by) // 2] if planted.counts.found_by else None,
                _share(planted.counts.stopped, planted.counts),
                _share(planted.counts.metrics[planted.goal].missed_ever, planted.counts),
            )
            for planted in lifts
        ],
    )
    held = all(null.counts.decided <= _ALPHA * null.counts.experiments for null in nulls)
    return f"""# Statistics of experiments

{"Holds" if held else "DOES NOT HOLD"}: of A/A experiments with 20 looks each, at most {_ALPHA:.0%} are ever decided.

`make statistics-proof`, {machine["date"]}. {machine["processor"]}, {machine["cores"]} cores, Python
{machine["python"]}. No figure depends on the machine or on its load: a seed fixes them.

Simulated shops of {Shop().days} days: users arrive evenly, come back, and differ in activity, taste and wealth;
purchases are rare, amounts heavy-tailed. Everything is analysed by `feature_sync/statistics/analyse.py` at the end of
each day, as a person who looks every morning would. Goals: {", ".join(GOALS)}; all are adjusted by CUPED, amounts
are capped at the 99 % quantile. Numbers after a share are its standard error.

## No lift: how often the verdict is wrong

Nominal: 5 % of experiments, over all goals and all looks together.

{decisions}

Each metric by itself, uncorrected, at 5 %. The last two columns are the usual test's: looked at once it is right
where arms are even, not where a small arm has a few large amounts, and with a look every day it is wrong nowhere less
than twice as often as it says.

{by_metric}

## A planted lift: how often it is found

As many users as the analysis requires for the lift, from 20 pilot experiments without one.

{power}
"""


def _share(count: int, counts: Counts) -> str:
    share = count / counts.experiments
    return f"{share:.1%} ± {100 * (share * (1 - share) / counts.experiments) ** 0.5:.1f}"


def main() -> None:
    """Measures and writes the page, or prints it with --quick."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiment_statistics", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run for seconds, to see that it works; prints the page")
    parser.add_argument("--experiments", type=int, default=1_000, help="A/A experiments with even arms")
    parser.add_argument("--planted", type=int, default=100, help="experiments with each lift")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    experiments, planted = (10, 4) if options.quick else (options.experiments, options.planted)
    page = measure(experiments=experiments, planted=planted, processes=options.processes)
    if options.quick:
        print(page)
    else:
        _OUTPUT.write_text(page)
        say(f"wrote {_OUTPUT}")


if __name__ == "__main__":
    main()

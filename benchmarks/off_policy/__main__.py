"""`python -m benchmarks.off_policy`, `make off-policy`: whether the intervals of `replay-log` cover the truth, and how
long a log must be for which share of exploration. Writes benchmarks/results/off-policy.md; about ten minutes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.environment.machine import describe_machine
from benchmarks.off_policy.simulator import NUM_POSITIONS, World, judged_orders, make_world, simulate, truth
from trainer.off_policy.estimates import Estimates, estimate
from trainer.off_policy.judged import ITEM_POSITION, POSITION_BASED, ClickModel
from trainer.off_policy.replay_log import SLOTS_PER_WEIGHT
from trainer.off_policy.verdict import CANNOT_SAY, judge_support
from trainer.off_policy.weighing import judge
from trainer.results.markdown import markdown_table

_OUTPUT: Final = Path("benchmarks/results/off-policy.md")
_POOL: Final = 100
_ESTIMATES: Final = ("logged", "ips", "snips", "dr", "difference")
_COVERED: Final[Sequence[tuple[ClickModel, float, int]]] = (
    (POSITION_BASED, 0.05, 1_000),
    (POSITION_BASED, 0.1, 4_000),
    (POSITION_BASED, 0.2, 2_000),
    (ITEM_POSITION, 0.5, 3_000),
)
"""Click model, share of exploration and users of the logs whose intervals are counted."""
_SHARES: Final = (0.02, 0.05, 0.1, 0.2)
_USERS: Final = (1_000, 3_000, 10_000, 30_000)
_NORMAL_QUANTILE: Final = 1.96


@dataclass
class Runs:
    """Estimates of many logs of one kind."""

    answers: list[int] = field(default_factory=list)
    all: list[Estimates] = field(default_factory=list)
    num_refused: int = 0

    def add(self, estimates: Estimates) -> None:
        """Takes in one log."""
        self.answers.append(estimates.support.num_answers)
        self.all.append(estimates)
        self.num_refused += judge_support(estimates).decision == CANNOT_SAY

    def coverage(self, name: str, value: float) -> str:
        """Share of the intervals that hold the truth, with the standard error of that share."""
        share = float(np.mean([one.low <= value <= one.high for one in (each.by_name()[name] for each in self.all)]))
        return f"{share:.3f} ± {(share * (1 - share) / len(self.all)) ** 0.5:.3f}"


def judged_log(world: World, *, exploration: float, num_users: int, seed: int, click_model: ClickModel) -> Estimates:
    """Estimates of what the judged order would earn without exploration, from one simulated log."""
    answers, tastes = simulate(world, num_users=num_users, exploration=exploration, seed=seed)
    log = judge(answers, judged_orders(world, tastes, 0.0), num_positions=NUM_POSITIONS, click_model=click_model)
    return estimate(log, max_weight=len(answers.rewards) / SLOTS_PER_WEIGHT)


def coverage_table(world: World, num_logs: int) -> str:
    """How often the intervals hold the truth."""
    judged = truth(world, world.judged_orders, 0.0)

    def rows() -> Iterator[list[str]]:
        for click_model, exploration, num_users in _COVERED:
            runs = Runs()
            for seed in range(num_logs):
                runs.add(
                    judged_log(world, exploration=exploration, num_users=num_users, seed=seed, click_model=click_model)
                )
            logged = truth(world, world.logged_orders, exploration)
            true = {**dict.fromkeys(("ips", "snips", "dr"), judged), "logged": logged, "difference": judged - logged}
            _say(f"{click_model}, {exploration:.0%}, {num_users} users: {runs.coverage('dr', judged)}")
            yield [
                click_model,
                f"{exploration:.0%}",
                f"{np.mean(runs.answers):,.0f}",
                f"{runs.num_refused} of {num_logs}",
                *(runs.coverage(name, true[name]) for name in _ESTIMATES),
            ]

    return markdown_table(["click model", "exploration", "answers", "cannot say", *_ESTIMATES], rows())


def needs_table(world: World) -> str:
    """What a log of a length tells, by its share of exploration."""
    best = truth(world, world.logged_orders, 0.0)

    def rows() -> Iterator[list[str]]:
        for exploration in _SHARES:
            cost = 1.0 - truth(world, world.logged_orders, exploration) / best
            for num_users in _USERS:
                one = judged_log(
                    world, exploration=exploration, num_users=num_users, seed=0, click_model=POSITION_BASED
                )
                _say(f"{exploration:.0%}, {num_users} users")
                support = one.support
                yield [
                    f"{exploration:.0%}",
                    f"{cost:.1%}",
                    f"{support.num_answers:,}",
                    f"{support.effective_users:,.0f} of {num_users:,}",
                    f"{support.effective_rewards:,.0f}",
                    f"{support.rare_rewards:.1f}",
                    f"± {_NORMAL_QUANTILE * one.dr.standard_error / one.dr.value:.1%}",
                    f"± {_NORMAL_QUANTILE * one.difference.standard_error / one.logged.value:.1%}",
                    "cannot say" if judge_support(one).decision == CANNOT_SAY else "says",
                ]

    return markdown_table(
        [
            "exploration",
            "rewards lost to it",
            "answers",
            "effective users",
            "effective rewards",
            "rare rewards",
            "interval of `dr`",
            "interval of the difference",
            "replay-log",
        ],
        rows(),
    )


def main() -> None:
    """Simulates, and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.off_policy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--logs", type=int, default=100, help="logs of each kind to cover (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=_OUTPUT, metavar="PATH", help="default: %(default)s")
    options = parser.parse_args()
    world = make_world(1, num_items=_POOL)
    judged, logged = truth(world, world.judged_orders, 0.0), truth(world, world.logged_orders, 0.0)
    covered = coverage_table(world, options.logs)
    needed = needs_table(world)
    machine = describe_machine()
    options.output.write_text(
        f"""# Off-policy evaluation on logs with known truth

`python -m benchmarks.off_policy --logs {options.logs}`, {machine["date"]}, numpy {machine["libraries"]["numpy"]}.

Simulated users with 200 kinds of taste get answers of {NUM_POSITIONS} items from a pool of {_POOL}, one to five
answers each, and click with position bias. The logged model earns {logged:.4f} clicks per answer without exploration.
The judged model's scores differ from its by 0.3 standard deviations of what both know; it earns {judged:.4f}, and is
judged without exploration.

## Coverage

Share of the 95 % intervals that hold the truth, over all logs, with the standard error of the share. Where `replay-log`
says "cannot say", it prints the intervals nevertheless, and they hold the truth too seldom: that is why it says so.

{covered}

## What share of exploration a log needs

One log of each kind, in the position-based click model. Intervals are 95 %, relative to the clicks per answer.
"Effective" is Kish's number; "rare rewards" are what the seldom shown items are expected to earn, of which ten are
needed.

{needed}
"""
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

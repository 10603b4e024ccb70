"""How often analyses of simulated experiments are wrong or find a lift, when somebody looks every day."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from benchmarks.experiment_statistics.simulation import GOALS, Shop, looks, metrics, plan
from feature_sync.statistics.analyse import analyse
from feature_sync.statistics.plan import Metric
from feature_sync.statistics.results import Decision, Outcome, RatioStatus


@dataclass(kw_only=True)
class MetricCounts:
    """Experiments in which a p-value of the metric was at most alpha, uncorrected."""

    anytime_ever: int = 0
    """The anytime-valid one, at any look."""
    fixed_ever: int = 0
    """The fixed-horizon one, at any look: what peeking gives."""
    fixed_last: int = 0
    """The fixed-horizon one, at the last look."""
    missed_ever: int = 0
    """The anytime-valid interval missed the true lift at any look."""


@dataclass(kw_only=True)
class Counts:
    """What happened in a number of experiments."""

    experiments: int = 0
    decided: int = 0
    """Experiments in which a goal was ever called better or worse, corrected for several goals."""
    shipped: int = 0
    """Experiments whose verdict was ever to ship."""
    stopped: int = 0
    """Experiments whose verdict was ever to stop because the arm is worse."""
    fixed_decided: int = 0
    """Experiments in which the corrected fixed-horizon p-value of a goal was ever at most alpha."""
    warned: int = 0
    """Experiments whose sample ratio was ever below the first limit (the second one included)."""
    invalid: int = 0
    """Experiments whose sample ratio was ever below the second limit."""
    found_by: list[int] = field(default_factory=list)
    """Day on which a goal was first called better, of the experiments where it was."""
    metrics: dict[str, MetricCounts] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Adds the experiments of another count."""
        for name in ("experiments", "decided", "shipped", "stopped", "fixed_decided", "warned", "invalid"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.found_by += other.found_by
        for metric, counts in other.metrics.items():
            own = self.metrics.setdefault(metric, MetricCounts())
            for name, value in vars(counts).items():
                setattr(own, name, getattr(own, name) + value)


def run(
    shop: Shop, *, experiments: int, seed: int, goals: tuple[Metric, ...] | None = None, processes: int = 1
) -> Counts:
    """Simulates and analyses experiments; the counts depend on the seed alone, not on the number of processes."""
    work = partial(_experiment, shop, goals or metrics(GOALS))
    seeds = np.random.SeedSequence(seed).spawn(experiments)
    total = Counts()
    if processes == 1:
        for counts in map(work, seeds):
            total.add(counts)
        return total
    with ProcessPoolExecutor(processes) as pool:
        for counts in pool.map(work, seeds, chunksize=4):
            total.add(counts)
    return total


def _experiment(shop: Shop, goals: Sequence[Metric], seed: np.random.SeedSequence) -> Counts:
    counts = Counts(experiments=1, metrics={goal.name: MetricCounts() for goal in goals})
    for day, table in looks(shop, np.random.default_rng(seed)):
        asked = plan(shop, tuple(goals), day=day)
        (arm,) = analyse(table, asked).arms
        outcomes = {result.outcome for result in arm.metrics}
        counts.decided |= bool(outcomes & {Outcome.BETTER, Outcome.WORSE})
        counts.shipped |= arm.verdict.decision is Decision.SHIP
        counts.stopped |= arm.verdict.decision is Decision.STOP and Outcome.WORSE in outcomes
        counts.warned |= arm.sample_ratio.status is not RatioStatus.OK
        counts.invalid |= arm.sample_ratio.status is RatioStatus.INVALID
        if Outcome.BETTER in outcomes and not counts.found_by:
            counts.found_by = [day]
        for result in arm.metrics:
            lift, metric = result.lift, counts.metrics[result.metric]
            if lift is None:
                continue
            metric.anytime_ever |= lift.anytime_p <= asked.alpha
            metric.fixed_ever |= lift.fixed_p <= asked.alpha
            metric.fixed_last = int(lift.fixed_p <= asked.alpha)
            if lift.anytime_relative is not None:
                metric.missed_ever |= not lift.anytime_relative.lower <= shop.lift <= lift.anytime_relative.upper
            counts.fixed_decided |= result.corrected_fixed_p is not None and result.corrected_fixed_p <= asked.alpha
    return counts


def required_users(shop: Shop, goal: Metric, *, pilots: int, seed: int) -> int:
    """Users that find the goal's smallest lift, by the analysis: the mean over pilots without a lift, twice, since the
    plan's number of users is part of the analysis."""
    for _ in range(2):
        found = []
        for child in np.random.SeedSequence(seed).spawn(pilots):
            *_, (day, table) = looks(replace(shop, lift=0.0), np.random.default_rng(child))
            (arm,) = analyse(table, plan(shop, (goal,), day=day)).arms
            assert arm.required_users is not None
            found.append(arm.required_users)
        shop = replace(shop, num_users=round(float(np.mean(found))))
    return shop.num_users

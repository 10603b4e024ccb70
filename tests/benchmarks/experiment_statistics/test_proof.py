"""The proof of the statistics of experiments, in small: few false verdicts, planted lifts found, seeds that fix it."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.experiment_statistics.proof import required_users, run
from benchmarks.experiment_statistics.simulation import Shop, metrics


def test_daily_looks_decide_few_experiments_without_a_lift_and_the_usual_test_many() -> None:
    counts = run(Shop(num_users=400, days=10), experiments=40, seed=3, goals=metrics(("ctr",)))
    assert counts.experiments == 40
    # 5 % of 40 is 2.
    assert counts.decided <= 2
    assert counts.metrics["ctr"].fixed_ever >= 5
    assert counts.invalid <= 1


def test_a_planted_lift_is_found_with_the_power_that_was_computed() -> None:
    (goal,) = metrics(("ctr",))
    shop = Shop(lift=0.2, days=3)
    goal = replace(goal, minimum_lift=shop.lift)
    shop = replace(shop, num_users=required_users(shop, goal, pilots=4, seed=2))
    counts = run(shop, experiments=50, seed=5, goals=(goal,))
    # 40 of 50 are expected, with a standard deviation of 3.
    assert 34 <= len(counts.found_by) <= 48
    assert counts.stopped == 0


def test_counts_depend_on_the_seed_alone() -> None:
    shop = Shop(num_users=300, days=2)
    assert run(shop, experiments=3, seed=1) == run(shop, experiments=3, seed=1)

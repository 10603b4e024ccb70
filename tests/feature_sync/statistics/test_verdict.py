"""Verdicts in words: when to ship, stop, go on, and when nothing can be said."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from feature_sync.statistics.analyse import analyse
from feature_sync.statistics.plan import MICROSECONDS_PER_DAY, Better, Metric, Role
from feature_sync.statistics.results import Decision, Outcome, RatioStatus
from tests.feature_sync.statistics.tables import GUARD, VALUE, arm_of, normal, plan, users, zeros_and_ones


def table(
    lift: float, *, count: int = 2_000, errors: tuple[int, int] = (20, 20), deviation: float = 2.0
) -> pd.DataFrame:
    return users(
        {
            "A": {"value": normal(1, count, 10.0, deviation), "guard": zeros_and_ones(errors[0], count)},
            "B": {"value": normal(2, count, 10.0 * (1 + lift), deviation), "guard": zeros_and_ones(errors[1], count)},
        }
    )


def decide(data: pd.DataFrame, *metrics: Metric, **changes: Any) -> tuple[Decision, str]:
    verdict = arm_of(data, plan(*(metrics or (VALUE, replace(GUARD, margin=0.05))), **changes)).verdict
    assert verdict.text == f"{verdict.decision}, because {verdict.because}"
    return verdict.decision, verdict.because


def test_ship() -> None:
    decision, because = decide(table(0.1))
    assert decision is Decision.SHIP
    assert because == "it is better: value +10.0% (+7.8% to +12.3%)"


def test_no_ship_within_the_first_week() -> None:
    decision, because = decide(table(0.1), until=3 * MICROSECONDS_PER_DAY)
    assert decision is Decision.GO_ON
    assert because.startswith("it has run 3.0 of 7 days: value +10.0%")


def test_stop_a_loss_even_within_the_first_week() -> None:
    decision, because = decide(table(-0.1), until=MICROSECONDS_PER_DAY)
    assert decision is Decision.STOP
    assert because == "it is worse: value -10.0% (-12.0% to -8.0%)"


def test_a_metric_that_is_better_when_lower_is_worse_when_higher() -> None:
    lower = replace(VALUE, better=Better.LOWER)
    assert decide(table(0.1), lower)[0] is Decision.STOP
    assert decide(table(-0.1), lower)[0] is Decision.SHIP


def test_a_broken_guardrail_stops_what_would_ship() -> None:
    decision, because = decide(table(0.1, errors=(20, 400)))
    assert decision is Decision.STOP
    assert because == "guardrails are broken: guard +0.19 (+0.159 to +0.221), margin 0.05"


def test_a_broken_guardrail_stops_even_where_the_sample_ratio_is_wrong() -> None:
    data = table(0.1, errors=(20, 400))
    verdict = arm_of(data[~data["user_id"].isin([f"B-{n}" for n in range(1_500, 2_000)])], plan(VALUE, GUARD)).verdict
    assert verdict.decision is Decision.STOP
    assert verdict.cautions == ("sample ratio invalid: 42.86% of the users, 50.00% planned",)


def test_a_guardrail_that_is_not_proven_holds_a_lift_back() -> None:
    decision, because = decide(table(0.1, errors=(300, 320)), VALUE, GUARD)
    assert decision is Decision.GO_ON
    assert "(value +10.0% (+7.8% to +12.3%)), but guardrails are not proven: guard" in because


def test_a_guardrail_without_numbers_holds_a_lift_back() -> None:
    data = table(0.1)
    data.loc[data["arm"] == "B", "guard"] = np.nan
    decision, because = decide(data)
    # More users would not help: as many as are required are here.
    assert decision is Decision.CANNOT_SAY
    assert "guard: 2000 users of B (100.0%) have no usable number" in because


def test_goals_that_disagree_are_a_persons_choice() -> None:
    data = table(0.1)
    data["other"] = 20 - data["value"]
    decision, because = decide(data, VALUE, Metric(name="other", numerator="other"))
    assert decision is Decision.CANNOT_SAY
    assert because.startswith("goals disagree: better value +10.0%")
    assert "; worse other -10.0%" in because


def test_go_on_says_how_many_users_there_are_and_how_many_are_required() -> None:
    data = table(0.01, count=500, deviation=4.0)
    arm = arm_of(data, plan(VALUE))
    assert arm.required_users is not None
    assert arm.verdict.decision is Decision.GO_ON
    assert arm.verdict.because == f"nothing is shown yet: 1,000 users so far, {arm.required_users:,} are required"
    assert arm.days_left == pytest.approx((arm.required_users - 1_000) / (1_000 / 14))
    assert arm.verdict.cautions == ("no guardrail is measured",)


def test_days_left_follow_the_users_who_came_in_the_last_week() -> None:
    data = table(0.01, count=500, deviation=4.0)
    # All but 70 came in the first week.
    first = np.where(np.arange(1_000) % 1_000 < 930, 1.0, 10.0)
    data["first_exposed"] = (first * MICROSECONDS_PER_DAY).astype(np.int64)
    arm = arm_of(data, plan(VALUE, max_days=10_000))
    assert arm.required_users is not None
    assert arm.days_left == pytest.approx((arm.required_users - 1_000) / 10)
    data["first_exposed"] = 0
    assert arm_of(data, plan(VALUE)).days_left is None


def test_a_goal_that_would_take_a_year_is_not_waited_for() -> None:
    decision, because = decide(table(0.0, count=500, deviation=60.0), VALUE)
    assert decision is Decision.CANNOT_SAY
    assert because.endswith("are required for the first goal, and 90 days bring 6,429")


def test_a_lift_that_is_too_small_to_matter_stops() -> None:
    decision, because = decide(table(0.005), replace(VALUE, minimum_lift=0.05))
    assert decision is Decision.STOP
    assert because.startswith("no goal gains what the plan looks for: value +0.5% (")


def test_enough_users_and_nothing_shown() -> None:
    data = table(0.01, count=2_000, deviation=4.0)
    decision, because = decide(data, replace(VALUE, minimum_lift=0.045), power=0.5)
    assert decision is Decision.CANNOT_SAY
    assert because.startswith("the required number of users is reached (4,000 users so far, 3,")


@pytest.mark.parametrize(
    ("kept", "because"),
    [
        ({"A": 200, "B": 0}, "B has 0 users, 100 are needed"),
        ({"A": 200, "B": 1}, "B has 1 users, 100 are needed"),
        ({"A": 0, "B": 200}, "A has 0 users, 100 are needed"),
        ({"A": 1, "B": 1}, "A has 1 users, 100 are needed"),
        ({"A": 99, "B": 100}, "A has 99 users, 100 are needed"),
        ({"A": 0, "B": 0}, "A has 0 users, 100 are needed"),
    ],
)
def test_too_few_users(kept: dict[str, int], because: str) -> None:
    data = table(0.5, count=200)
    data = pd.concat([data[data["arm"] == arm].head(count) for arm, count in kept.items()])
    result = analyse(data, plan(VALUE, GUARD))
    assert (result.arms[0].verdict.decision, result.arms[0].verdict.because) == (Decision.CANNOT_SAY, because)
    json.dumps(result.as_json(), allow_nan=False)


def test_all_zeros() -> None:
    data = users({arm: {"value": np.zeros(500)} for arm in ("A", "B")})
    assert decide(data, VALUE) == (Decision.CANNOT_SAY, "value: all users are alike")


@pytest.mark.parametrize(
    ("count", "status", "decision"),
    [(5_000, "ok", Decision.SHIP), (4_730, "warn", Decision.SHIP), (4_600, "invalid", Decision.CANNOT_SAY)],
)
def test_the_sample_ratio_has_two_limits(count: int, status: str, decision: Decision) -> None:
    data = users({"A": {"value": normal(1, 5_000)}, "B": {"value": normal(2, count, 12.0)}})
    arm = arm_of(data, plan(VALUE))
    assert arm.sample_ratio.status == status
    assert arm.verdict.decision is decision
    if arm.sample_ratio.status is RatioStatus.INVALID:
        assert arm.verdict.because == (
            "B has 47.92% of the users instead of 50.00% (p = 5e-05): assignment or logging is broken"
        )
    elif arm.sample_ratio.status is RatioStatus.WARN:
        assert arm.verdict.cautions[0] == "sample ratio warn: 48.61% of the users, 50.00% planned"


def test_the_sample_ratio_is_that_of_the_planned_shares() -> None:
    data = users({"A": {"value": normal(1, 1_900)}, "B": {"value": normal(2, 100)}})
    assert arm_of(data, plan(VALUE, shares={"A": 95, "B": 5})).sample_ratio.status is RatioStatus.OK
    assert arm_of(data, plan(VALUE)).sample_ratio.status is RatioStatus.INVALID


def test_every_arm_is_compared_with_control_and_all_share_the_risk() -> None:
    arms = {"A": {"value": normal(1, 2_000)}}
    for number, lift in enumerate([0.0, 0.0215, 0.1]):
        arms["BCD"[number]] = {"value": normal(number + 2, 2_000, 10 * (1 + lift))}
    alone = arm_of(users({"A": arms["A"], "B": arms["C"]}), plan(VALUE))
    result = analyse(users(arms), plan(VALUE, shares={"A": 1, "B": 1, "C": 1, "D": 1}))
    assert [arm.arm for arm in result.arms] == ["B", "C", "D"]
    assert [arm.metrics[0].outcome for arm in result.arms] == [Outcome.OPEN, Outcome.OPEN, Outcome.BETTER]
    assert alone.metrics[0].outcome is Outcome.BETTER
    p_values = [arm.metrics[0].unadjusted.anytime_p for arm in result.arms if arm.metrics[0].unadjusted]
    corrected = [arm.metrics[0].corrected_anytime_p for arm in result.arms]
    # Holm: three times the smallest, twice the next, the largest as it is.
    assert corrected == pytest.approx([p_values[0], min(1, 2 * p_values[1]), 3 * p_values[2]])


def test_a_watched_metric_decides_nothing() -> None:
    data = table(0.1)
    watched = replace(VALUE, name="watched", role=Role.WATCHED)
    data["other"] = normal(9, len(data))
    goal = Metric(name="other", numerator="other")
    arm = arm_of(data, plan(goal, watched))
    assert arm.metrics[1].outcome is Outcome.BETTER
    assert arm.metrics[1].corrected_anytime_p is None
    assert arm.metrics[1].required_users is None
    assert arm.verdict.decision is not Decision.SHIP


def test_a_goal_that_cannot_be_judged_is_a_caution() -> None:
    data = table(0.1)
    data["none"] = 0.0
    verdict = arm_of(data, plan(VALUE, Metric(name="none", numerator="none"))).verdict
    assert verdict.decision is Decision.SHIP
    assert "none cannot be judged: all users are alike" in verdict.cautions


def test_a_result_is_plain_json() -> None:
    document = json.loads(json.dumps(analyse(table(0.1), plan(VALUE, GUARD)).as_json(), allow_nan=False))
    assert document["arms"][0]["verdict"]["text"].startswith("go on, because it is better")
    assert document["arms"][0]["metrics"][0]["unadjusted"]["anytime"].keys() == {"lower", "upper"}


@pytest.mark.process
def test_plans_and_the_service_load_neither_scipy_nor_tea_tasting() -> None:
    code = """
import sys, feature_sync.commands.cli, feature_sync.service.run, feature_sync.statistics.plan
import feature_sync.statistics.results
print([name for name in ("scipy", "tea_tasting", "ibis") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "[]"

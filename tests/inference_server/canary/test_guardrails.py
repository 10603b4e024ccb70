"""When a canary is bad: single guardrails on counts, and how often they err on simulated canaries."""

from __future__ import annotations

import pytest

from inference_server.canary.counts import ANSWERS, CLICKS, COMPARED, DEGRADED, FAILED, HARMED, SHORT, ArmCounts
from inference_server.canary.guardrails import MIN_RUN, breach
from tests.support.simulated_canaries import Simulated, runs


def arm(answers: int, *, groups: int = 64, seconds: int = 2, **counted: int) -> ArmCounts:
    """Counts that are spread evenly over groups of users; all answers took as long."""
    counts = ArmCounts()
    for name, number in {ANSWERS: answers, COMPARED: answers, **counted}.items():
        counts.by_group[name] = [
            (number // groups + (group < number % groups)) if group < groups else 0 for group in range(64)
        ]
    counts.seconds[seconds] = answers
    return counts


def broken(canary: ArmCounts, control: ArmCounts, *, longest_run: int = 0) -> str | None:
    found = breach(canary, control, longest_run=longest_run)
    return None if found is None else found.guardrail


def test_alike_nothing_is_broken() -> None:
    some = {HARMED: 40, DEGRADED: 40, FAILED: 10, SHORT: 40, CLICKS: 100}
    assert broken(arm(1_000, **some), arm(1_000, **some)) is None
    assert broken(arm(0), arm(0)) is None
    assert broken(arm(5), arm(0)) is None


def test_one_number_that_is_none_breaks_it() -> None:
    canary = arm(1_000)
    canary.not_finite = 1
    found = breach(canary, arm(1_000), longest_run=0)
    assert found is not None
    assert (found.guardrail, found.num_harmed) == ("not_finite", 1)
    assert found.reason == "its model made NaN or infinity 1 times in 1000 answers"


def test_a_run_breaks_it_unless_the_control_group_has_such_runs_too() -> None:
    assert broken(arm(MIN_RUN, harmed=MIN_RUN), arm(10), longest_run=MIN_RUN) == "run"
    assert broken(arm(100, harmed=20), arm(100), longest_run=MIN_RUN - 1) is None
    assert broken(arm(100, harmed=60), arm(100, harmed=60), longest_run=MIN_RUN) is None
    assert broken(arm(100, harmed=60), arm(100, harmed=60), longest_run=50) == "run"


@pytest.mark.parametrize("kind", [FAILED, DEGRADED, SHORT])
def test_a_larger_share_of_bad_answers_breaks_it(kind: str) -> None:
    assert broken(arm(25, **{kind: 25}), arm(25)) == kind
    assert broken(arm(1_000, **{kind: 120}), arm(1_000, **{kind: 20})) == kind
    assert broken(arm(1_000, **{kind: 25}), arm(1_000, **{kind: 20})) is None
    assert broken(arm(1_000, **{kind: 20}), arm(1_000, **{kind: 120})) is None
    # Below the margin it is put up with, however sure.
    assert broken(arm(1_000_000, **{kind: 8_000}), arm(1_000_000, **{kind: 1_000})) is None


def test_one_busy_user_says_nothing() -> None:
    odd, usual = arm(300, degraded=300, groups=1), arm(300, groups=64)
    assert broken(odd, usual) is None
    few_users = arm(300, groups=64)
    for group in range(6):
        few_users.by_group[ANSWERS][group] += 200
        few_users.by_group[DEGRADED][group] += 200 if group < 5 else 0
    assert broken(few_users, arm(1_500)) is None


def test_twice_as_slow_breaks_it_and_a_little_slower_does_not() -> None:
    assert broken(arm(100, seconds=4), arm(100, seconds=2)) == "slow"
    assert broken(arm(100, seconds=3), arm(100, seconds=2)) is None
    assert broken(arm(100, seconds=1), arm(100, seconds=0)) is None  # below ten milliseconds nobody notices
    found = breach(arm(200, seconds=8), arm(200, seconds=2), longest_run=0)
    assert found is not None
    assert found.num_harmed == 200
    assert found.reason.startswith("answers that took more than ")


def test_fewer_clicks_break_it() -> None:
    assert broken(arm(2_000, clicks=100), arm(2_000, clicks=400)) == "clicks"
    assert broken(arm(2_000, clicks=380), arm(2_000, clicks=400)) is None
    assert broken(arm(2_000, clicks=400), arm(2_000, clicks=100)) is None
    assert broken(arm(2_000, clicks=0), arm(2_000, clicks=40)) is None  # too few to say
    found = breach(arm(2_000, clicks=100), arm(2_000, clicks=400), longest_run=0)
    assert found is not None
    assert found.num_harmed == 2_000
    assert found.reason == ("clicks: 100 on 2000 answers (5.00%), in the control group 400 on 2000 (20.00%)")


def test_clicks_of_few_users_say_nothing() -> None:
    canary, control = arm(2_000, clicks=100, groups=20), arm(2_000, clicks=400, groups=20)
    assert broken(canary, control) is None


def test_a_canary_as_good_as_its_control_group_is_seldom_taken_back() -> None:
    ends = [broken for broken, _ in runs(Simulated(looks=24), 120)]
    assert sum(end is not None for end in ends) <= 0.045 * len(ends)


@pytest.mark.parametrize(
    ("simulated", "guardrails", "most_answers"),
    [
        (Simulated(more_harmed=1.0, answers_per_look=5), {"run", "degraded", "short"}, 30),
        (Simulated(more_harmed=0.2), {"degraded", "short", "failed", "run"}, 800),
        (Simulated(more_slow=0.2), {"slow"}, 1_000),
        (Simulated(clicks_kept=0.4, looks=120), {"clicks"}, 3_000),
    ],
    ids=["all harmed", "a fifth more harmed", "a fifth more slow", "two fifths of the clicks"],
)
def test_a_bad_canary_is_taken_back(simulated: Simulated, guardrails: set[str], most_answers: int) -> None:
    ends = list(runs(simulated, 15))
    assert {end.guardrail for end, _ in ends if end is not None} <= guardrails
    found = [answers for end, answers in ends if end is not None and answers <= most_answers]
    assert len(found) >= 0.9 * len(ends)


def test_what_harms_everybody_for_a_moment_breaks_nothing() -> None:
    counts = {HARMED: 30, DEGRADED: 30}
    canary, control = arm(3_000, **counts), arm(3_000, **counts)
    assert broken(canary, control, longest_run=30) == "run"
    found = breach(canary, control, longest_run=30, control_in_run=(29, 29))
    assert found is None
    lone = breach(canary, control, longest_run=30, control_in_run=(0, 29))
    assert lone is not None
    assert lone.guardrail == "run"

"""What a worker counts of a canary."""

from __future__ import annotations

import json

import pytest

from inference_server.canary.counts import (
    ANSWERS,
    CLICKS,
    COMPARED,
    DEGRADED,
    FAILED,
    HARMED,
    SHORT,
    ArmCounts,
    CanaryCounts,
)
from inference_server.canary.layer import CANARY, CONTROL
from inference_server.core.answers import Answer
from inference_server.core.degradation import Degraded, Source
from tandem.contract.experiments import Assignment


def assignment(arm: str = CANARY, *, exposed: bool = True, experiment: str = "canary-2") -> Assignment:
    return Assignment(experiment=experiment, arm=arm, exposed=exposed)


def answer(*reasons: Degraded, num_items: int = 3, arms: tuple[Assignment, ...] = (assignment(),)) -> Answer:
    return Answer(
        request_id="r",
        item_ids=[f"i{number}" for number in range(num_items)],
        scores=[0.0] * num_items,
        reasons=None,
        model_version="m",
        variant="2",
        source=Source.RANKED,
        degraded_reasons=reasons,
        assignments=arms,
    )


@pytest.fixture
def counts() -> CanaryCounts:
    counts = CanaryCounts()
    counts.watch("canary-2")
    return counts


def count(counts: CanaryCounts, given: Answer, user: str = "u", *, seconds: float = 0.02) -> None:
    counts.answered(given, user, num_items=3, seconds=seconds)


def taken(counts: CanaryCounts, arm: str = CANARY) -> ArmCounts:
    plain = counts.take()
    assert plain is not None
    found = ArmCounts()
    found.add(json.loads(json.dumps(plain))[arm])
    return found


def test_a_good_answer(counts: CanaryCounts) -> None:
    count(counts, answer())
    count(counts, answer(arms=(assignment(CONTROL),)), seconds=3.0)
    plain = counts.take()
    assert plain is not None
    assert plain["run"] == 0
    arm = ArmCounts()
    arm.add(plain[CANARY])
    assert [arm[name] for name in (ANSWERS, COMPARED, FAILED, DEGRADED, SHORT, HARMED, CLICKS)] == [1, 1, 0, 0, 0, 0, 0]
    assert (arm.timed, arm.slower_than(1), arm.slower_than(2)) == (1, 1, 0)  # more than 10 ms, not more than 25 ms
    assert sum(plain[CONTROL]["seconds"][-1:]) == 1
    assert counts.take() is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (answer(Degraded.DEADLINE), {DEGRADED: 1, HARMED: 1}),
        (answer(Degraded.RANKER_FAILED, num_items=2), {DEGRADED: 1, SHORT: 1, HARMED: 1}),
        (answer(num_items=0), {SHORT: 1, HARMED: 1}),
        (answer(Degraded.STORE_UNAVAILABLE), {}),
        (answer(Degraded.ARM_UNAVAILABLE, arms=(assignment(exposed=False),)), {FAILED: 1}),
    ],
)
def test_a_bad_answer(counts: CanaryCounts, given: Answer, expected: dict[str, int]) -> None:
    count(counts, given)
    arm = taken(counts)
    assert {name: arm[name] for name in (FAILED, DEGRADED, SHORT, HARMED) if arm[name]} == expected
    assert arm[ANSWERS] == 1


def test_what_is_of_no_canary_is_not_counted(counts: CanaryCounts) -> None:
    count(counts, answer(arms=()))
    count(counts, answer(arms=(assignment(experiment="other"),)))
    count(counts, answer(arms=(assignment(exposed=False),)))  # a later page of another model's list
    counts.clicked((assignment(experiment="other"),), "u")
    assert counts.take() is None
    counts.watch("")
    count(counts, answer())
    assert counts.take() is None


def test_an_error_is_a_failure(counts: CanaryCounts) -> None:
    counts.failed((assignment(),), "u")
    arm = taken(counts)
    assert (arm[ANSWERS], arm[FAILED], arm[HARMED], arm.timed) == (1, 1, 1, 0)


def test_numbers_that_are_none_are_urgent(counts: CanaryCounts) -> None:
    count(counts, answer(Degraded.SCORES_NOT_FINITE, arms=(assignment(CONTROL),)))
    assert not counts.is_urgent
    count(counts, answer(Degraded.USER_VECTOR_NOT_FINITE))
    assert counts.is_urgent
    assert taken(counts).not_finite == 1
    assert not counts.is_urgent
    counts.not_finite()  # the ranker's, which the answers do not name
    assert taken(counts).not_finite == 1


def test_a_run_comes_from_several_users_and_ends_with_a_good_answer(counts: CanaryCounts) -> None:
    for _ in range(20):
        count(counts, answer(num_items=0), "one")
    assert not counts.is_urgent
    first = counts.take()
    assert first is not None
    assert first["run"] == 0
    for number in range(10):
        count(counts, answer(num_items=0), f"user-{number}")
    assert counts.is_urgent
    second = counts.take()
    assert second is not None
    assert second["run"] == 30
    count(counts, answer(), "one")
    count(counts, answer(num_items=0), "two")
    third = counts.take()
    assert third is not None
    assert third["run"] == 0


def test_clicks_are_counted_by_user_and_only_beside_a_control_group(counts: CanaryCounts) -> None:
    for user in ("a", "b", "b"):
        counts.clicked((assignment(),), user)
    plain = counts.take()
    assert plain is not None
    arm = ArmCounts()
    arm.add(plain[CANARY], compares=False)
    assert arm[CLICKS] == 0
    arm.add(plain[CANARY])
    assert sorted(filter(None, arm.by_group[CLICKS])) == [1, 2]


def test_another_canary_begins_at_nothing(counts: CanaryCounts) -> None:
    count(counts, answer())
    counts.watch("canary-3")
    assert counts.take() is None


def test_a_run_says_what_the_control_group_got_meanwhile(counts: CanaryCounts) -> None:
    harmed = answer(Degraded.DEADLINE)
    control = answer(Degraded.DEADLINE, arms=(assignment(CONTROL),))
    count(counts, control)  # before the run
    count(counts, answer())
    for number in range(30):
        count(counts, harmed, f"u{number}")
        count(counts, control, f"c{number}")
    plain = counts.take()
    assert plain is not None
    assert (plain["run"], plain["control_in_run"]) == (30, [29, 29])

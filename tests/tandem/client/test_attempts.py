"""The retry policy alone: the next step of a plan, at times that the test sets."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import pytest

from tandem.client.attempts import Answered, RetryBudget, RetryPolicy, Start, Wait, attempts, until_ready
from tandem.client.core import (
    DELETE_ITEMS,
    HEALTH_CHECK,
    HEDGEABLE,
    RECORD_EVENTS,
    UNARY_RESPONSES,
    UPSERT_ITEMS,
)
from tandem.client.errors import Failure, OverCapacity, Unavailable

UNAVAILABLE = Failure(code=grpc.StatusCode.UNAVAILABLE, message="down")
NO_PAUSE = RetryPolicy(initial_backoff_ms=0)


@dataclass
class Clock:
    """A clock that only the test advances."""

    now_seconds: float = 100.0

    def __call__(self) -> float:
        return self.now_seconds


def new_plan(clock: Clock, *, policy: RetryPolicy = NO_PAUSE, hedge_after_seconds: float | None = None):
    return attempts(
        policy, RetryBudget(policy), deadline_seconds=1.0, hedge_after_seconds=hedge_after_seconds, clock=clock
    )


def test_a_retry_gets_the_remaining_time() -> None:
    clock = Clock()
    plan = new_plan(clock)
    assert next(plan) == Start(1.0)
    assert plan.send(None) == Wait(None)
    clock.now_seconds += 0.25
    assert plan.send(UNAVAILABLE) == Wait(0.0)
    assert plan.send(None) == Start(0.75)
    assert plan.send(None) == Wait(None)
    with pytest.raises(StopIteration) as end:
        plan.send(Answered("response"))
    assert end.value.value == "response"


def test_no_attempt_begins_when_the_time_is_over() -> None:
    clock = Clock()
    plan = new_plan(clock)
    next(plan)
    plan.send(None)
    assert plan.send(UNAVAILABLE) == Wait(0.0)
    clock.now_seconds += 1.0
    with pytest.raises(Unavailable):
        plan.send(None)


def test_a_hedge_shares_the_deadline_and_is_made_once() -> None:
    clock = Clock()
    plan = new_plan(clock, hedge_after_seconds=0.1)
    next(plan)
    assert plan.send(None) == Wait(0.1)
    clock.now_seconds += 0.1
    assert plan.send(None) == Start(pytest.approx(0.9))
    assert plan.send(None) == Wait(None), "no third attempt"
    assert plan.send(UNAVAILABLE) == Wait(None), "the other attempt may still answer"
    assert plan.send(UNAVAILABLE) == Wait(0.0), "both attempts failed"
    assert isinstance(plan.send(None), Start)
    plan.send(None)
    with pytest.raises(Unavailable) as caught:
        plan.send(UNAVAILABLE)
    assert caught.value.num_attempts == 3


def test_a_delay_that_does_not_fit_ends_the_call() -> None:
    crowded = Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, message="full", retry_after_seconds=1.0)
    plan = new_plan(Clock())
    next(plan)
    plan.send(None)
    with pytest.raises(OverCapacity):
        plan.send(crowded)


def test_pauses_grow_to_a_limit_and_are_random() -> None:
    policy = RetryPolicy(initial_backoff_ms=10, backoff_multiplier=2, max_backoff_ms=30)
    for num_attempts, max_ms in ((1, 10), (2, 20), (3, 30), (9, 30)):
        pauses = [policy.pause_seconds(num_attempts, UNAVAILABLE) * 1e3 for _ in range(200)]
        assert 0 <= min(pauses) < max_ms / 2 < max(pauses) <= max_ms
    asked = Failure(code=grpc.StatusCode.UNAVAILABLE, message="later", retry_after_seconds=5.0)
    assert 5.0 <= policy.pause_seconds(1, asked) <= 5.01


def test_ten_answers_refill_a_token() -> None:
    budget = RetryBudget(RetryPolicy(budget_tokens=1, budget_ratio=0.1))
    assert budget.take()
    for _ in range(9):
        budget.answered()
        assert not budget.take()
    budget.answered()
    assert budget.take()
    assert not budget.take()


def test_the_budget_never_holds_more_than_it_began_with() -> None:
    budget = RetryBudget(RetryPolicy(budget_tokens=2, budget_ratio=1))
    for _ in range(10):
        budget.answered()
    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_readiness_waits_through_transient_failures() -> None:
    plan = until_ready(bool, timeout_seconds=1.0, clock=Clock())
    for outcome in (UNAVAILABLE, Answered(False), Failure(code=grpc.StatusCode.NOT_FOUND, message="unknown service")):
        assert next(plan) == Start(1.0)
        plan.send(None)
        assert isinstance(plan.send(outcome), Wait)
    next(plan)
    plan.send(None)
    with pytest.raises(StopIteration):
        plan.send(Answered(True))


def test_readiness_reports_the_last_failure() -> None:
    clock = Clock()
    plan = until_ready(bool, timeout_seconds=1.0, clock=clock)
    next(plan)
    plan.send(None)
    plan.send(UNAVAILABLE)
    clock.now_seconds += 1.0
    with pytest.raises(Unavailable, match=r"^not ready within 1 s: UNAVAILABLE: down$"):
        plan.send(None)


def test_only_reads_are_hedged() -> None:
    """A literal list, so that every new method needs a decision."""
    assert {method.rpartition("/")[2] for method in HEDGEABLE} == {
        *("Recommend", "RecommendMany", "SimilarItems", "GetServingStatus")
    }
    writes = {RECORD_EVENTS, UPSERT_ITEMS, DELETE_ITEMS}
    assert set(UNARY_RESPONSES) - {HEALTH_CHECK} - writes == HEDGEABLE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", 0),
        ("backoff_multiplier", 0.5),
        ("initial_backoff_ms", -1),
        ("initial_backoff_ms", 5000),
        ("budget_tokens", -1),
        ("budget_ratio", 1.5),
    ],
)
def test_an_invalid_policy_names_the_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        RetryPolicy(**{field: value})  # type: ignore[arg-type]

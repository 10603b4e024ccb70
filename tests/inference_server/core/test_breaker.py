"""Circuit breakers: when they open, which calls they allow, and that they close once a dependency is back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inference_server.core.breaker import Breaker, BreakerState


class Clock:
    """A clock that the test moves, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock, **options: float) -> Breaker:
    breaker = Breaker("store", clock=clock, **options)  # type: ignore[arg-type]
    for _ in range(3):
        assert breaker.allows()
        breaker.failed()
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_states_are_the_words_of_the_api() -> None:
    assert [str(state) for state in BreakerState] == ["closed", "open", "half_open"]


def test_only_failures_in_a_row_open_it() -> None:
    breaker = Breaker("store", failures_to_open=3)
    for report in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        report()
    assert breaker.state is BreakerState.CLOSED
    assert breaker.allows()
    breaker.failed()
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allows()


def test_one_caller_probes_when_the_time_has_passed() -> None:
    clock = Clock()
    breaker = opened(clock, open_seconds=0.5)
    clock.now += 0.49
    assert not breaker.allows()
    assert breaker.state is BreakerState.OPEN
    clock.now += 0.02
    assert [breaker.allows() for _ in range(5)] == [True, False, False, False, False]
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    assert [breaker.allows() for _ in range(5)] == [True] * 5


def test_each_failed_probe_doubles_the_time_up_to_the_longest() -> None:
    clock = Clock()
    breaker = opened(clock, open_seconds=0.5, max_open_seconds=3.0)
    for open_seconds in (0.5, 1.0, 2.0, 3.0, 3.0):
        clock.now += open_seconds - 0.01
        assert not breaker.allows()
        clock.now += 0.02
        assert breaker.allows()
        breaker.failed()
        assert breaker.state is BreakerState.OPEN


def test_the_time_starts_anew_after_a_success() -> None:
    clock = Clock()
    breaker = opened(clock, open_seconds=0.5)
    clock.now += 0.5
    assert breaker.allows()
    breaker.failed()
    clock.now += 1.0
    assert breaker.allows()
    breaker.succeeded()
    clock.now += 1.0
    for _ in range(3):
        breaker.failed()
    assert breaker.state is BreakerState.OPEN
    clock.now += 0.5
    assert breaker.allows()


@pytest.mark.parametrize("answered_in_time", [0, 1, 5, 9])
def test_a_slow_dependency_opens_it_once_a_second(answered_in_time: int) -> None:
    """Of ten calls, some are answered in time, every 5 ms for a minute."""
    clock, opened_at = Clock(), list[float]()
    breaker = Breaker("store", clock=clock, max_open_seconds=1.0, on_change=lambda it: told(it.state))

    def told(state: BreakerState) -> None:
        if state is BreakerState.OPEN and before[0] is BreakerState.CLOSED:
            opened_at.append(clock.now)
        before[0] = state

    before = [BreakerState.CLOSED]
    for call in range(12_000):
        clock.now += 0.005
        if breaker.allows():
            if call % 10 < answered_in_time:
                breaker.succeeded()
            else:
                breaker.failed()
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(opened_at))
    assert bool(opened_at) == (answered_in_time < 8)


def test_failures_soon_after_an_outage_open_it_when_the_second_is_over() -> None:
    clock = Clock()
    breaker = opened(clock, open_seconds=0.5)
    clock.now += 0.5
    assert breaker.allows()
    breaker.succeeded()
    for _ in range(9):
        clock.now += 0.1
        breaker.failed()
    assert breaker.state is BreakerState.CLOSED
    clock.now += 0.2
    breaker.failed()
    assert breaker.state is BreakerState.OPEN


def test_a_probe_that_never_reports_is_taken_for_lost() -> None:
    clock = Clock()
    breaker = opened(clock, probe_seconds=0.25)
    clock.now += 0.5
    assert breaker.allows()
    clock.now += 0.24
    assert not breaker.allows()
    clock.now += 0.02
    assert [breaker.allows() for _ in range(2)] == [True, False]


def test_late_reports_of_calls_that_began_before_it_opened() -> None:
    clock = Clock()
    breaker = opened(clock, open_seconds=0.5)
    clock.now += 0.4
    breaker.failed()
    clock.now += 0.1
    assert breaker.allows()

    breaker = opened(clock)
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_every_change_of_state_is_told() -> None:
    clock = Clock()
    told: list[str] = []
    breaker = Breaker(
        "store", clock=clock, failures_to_open=1, on_change=lambda it: told.append(f"{it.name} {it.state}")
    )
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    clock.now += 0.5
    breaker.allows()
    clock.now += 1.0  # the probe is lost
    breaker.allows()
    breaker.failed()
    clock.now += 1.0
    breaker.allows()
    breaker.succeeded()
    breaker.succeeded()
    assert told == [f"store {state}" for state in ("open", "half_open", "open", "half_open", "closed")]


@pytest.mark.parametrize(
    "options",
    [{"failures_to_open": 0}, {"open_seconds": 0.0}, {"open_seconds": 6.0}, {"probe_seconds": 0.0}],
)
def test_options_that_make_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^breaker store: needs "):
        Breaker("store", **options)  # type: ignore[arg-type]


@given(
    outage_seconds=st.floats(0.0, 30.0),
    every_seconds=st.floats(0.01, 0.1),
    max_open_seconds=st.floats(0.5, 2.0),
    takes_seconds=st.floats(0.0, 0.3),
)
def test_it_closes_soon_after_the_dependency_is_back(
    outage_seconds: float, every_seconds: float, max_open_seconds: float, takes_seconds: float
) -> None:
    """One caller after the other; the worst case is a probe that began just before the dependency was back."""
    clock = Clock()
    breaker = Breaker("store", clock=clock, max_open_seconds=max_open_seconds)
    back_at = clock.now + outage_seconds
    while not (clock.now >= back_at and breaker.state is BreakerState.CLOSED):
        if breaker.allows():
            is_up = clock.now >= back_at
            clock.now += takes_seconds
            if is_up:
                breaker.succeeded()
            else:
                breaker.failed()
        clock.now += every_seconds
        assert clock.now < back_at + max_open_seconds + 2 * takes_seconds + 3 * every_seconds


class BreakerMachine(RuleBasedStateMachine):
    """Calls, reports and pauses in any order, against the states that must never occur."""

    FAILURES_TO_OPEN = 2
    MAX_OPEN_SECONDS = 4.0
    PROBE_SECONDS = 1.5
    MIN_CLOSED_SECONDS = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.told: list[BreakerState] = []
        self.breaker = Breaker(
            "store",
            failures_to_open=self.FAILURES_TO_OPEN,
            open_seconds=1.0,
            max_open_seconds=self.MAX_OPEN_SECONDS,
            min_closed_seconds=self.MIN_CLOSED_SECONDS,
            probe_seconds=self.PROBE_SECONDS,
            clock=self.clock,
            on_change=lambda breaker: self.told.append(breaker.state),
        )
        self.failures_in_a_row = 0
        self.times_opened = 0
        self.closed_since: float | None = None
        self.probe_since: float | None = None
        self.refused_since: float | None = None

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, 2.0, 5.0]))
    def pause(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def ask(self) -> None:
        state = self.breaker.state
        allowed = self.breaker.allows()
        if state is BreakerState.CLOSED:
            assert allowed
        elif allowed:
            assert self.probe_since is None or self.clock.now - self.probe_since >= self.PROBE_SECONDS
            self.probe_since = self.clock.now
        if allowed:
            self.refused_since = None
        else:
            self.refused_since = self.clock.now if self.refused_since is None else self.refused_since
            assert self.clock.now - self.refused_since < self.MAX_OPEN_SECONDS + self.PROBE_SECONDS

    @rule()
    def succeed(self) -> None:
        if self.breaker.state is not BreakerState.CLOSED:
            self.closed_since = self.clock.now
        self.breaker.succeeded()
        self.failures_in_a_row = 0
        self.probe_since = None
        assert self.breaker.state is BreakerState.CLOSED

    @rule()
    def fail(self) -> None:
        state = self.breaker.state
        self.breaker.failed()
        if state is BreakerState.CLOSED:
            self.failures_in_a_row += 1
            may_open = self.closed_since is None or self.clock.now - self.closed_since >= self.MIN_CLOSED_SECONDS
            opens = self.failures_in_a_row >= self.FAILURES_TO_OPEN and may_open
            assert self.breaker.state is (BreakerState.OPEN if opens else BreakerState.CLOSED)
            if opens:
                self.failures_in_a_row = 0
                self.times_opened += 1
        else:
            self.refused_since = None if state is BreakerState.HALF_OPEN else self.refused_since
            assert self.breaker.state is BreakerState.OPEN
        self.probe_since = None

    @invariant()
    def what_is_told_is_what_is(self) -> None:
        assert self.breaker.state is (self.told[-1] if self.told else BreakerState.CLOSED)
        assert all(state is not following for state, following in pairwise(self.told))
        states = [BreakerState.CLOSED, *self.told]
        assert list(pairwise(states)).count((BreakerState.CLOSED, BreakerState.OPEN)) == self.times_opened


TestBreakerMachine = BreakerMachine.TestCase

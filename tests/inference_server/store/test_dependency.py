"""The state of a dependency and what the log says of it change at most once a second; its breaker opens at once."""

from __future__ import annotations

from itertools import pairwise

import structlog

from inference_server.core.breaker import BreakerState
from inference_server.store.dependency import Dependency
from inference_server.telemetry.statistics import Statistics


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_slow_dependency_fills_no_log() -> None:
    clock, statistics = Clock(), Statistics()
    dependency = Dependency("store", statistics, clock=clock)
    states = []
    with structlog.testing.capture_logs() as logs:
        for _ in range(2000):  # 20 s
            clock.now += 0.005
            dependency.succeeded()
            states.append(dependency.is_up)
            clock.now += 0.005
            dependency.failed("timeout")
            states.append(dependency.is_up)
    assert 2 <= len(logs) <= 21
    assert sum(state is not following for state, following in pairwise(states)) == len(logs) - 1


def test_the_first_change_is_told_at_once_and_the_next_a_second_later() -> None:
    clock, statistics = Clock(), Statistics()
    dependency = Dependency("store", statistics, clock=clock)
    with structlog.testing.capture_logs() as logs:
        dependency.succeeded()
        assert dependency.is_up
        dependency.failed("timeout")
        assert not dependency.is_up
        assert dependency.problem == "timeout"
        clock.now += 0.9
        dependency.succeeded()
        assert not dependency.is_up
        assert dependency.problem == "timeout"
        clock.now += 0.1
        dependency.succeeded()
        assert dependency.is_up
        assert dependency.problem == ""
        clock.now += 0.9
        dependency.failed("timeout")
        assert dependency.is_up
        clock.now += 0.1
        dependency.failed("timeout")
        assert not dependency.is_up
    assert [line["event"] for line in logs] == ["store_up", "store_down", "store_up", "store_down"]


def test_another_reason_is_logged_at_once() -> None:
    dependency = Dependency("store", Statistics(), clock=Clock())
    with structlog.testing.capture_logs() as logs:
        dependency.failed("timeout")
        dependency.failed("NOAUTH")
    assert [line["reason"] for line in logs] == ["timeout", "NOAUTH"]


def test_the_breaker_does_not_wait() -> None:
    statistics = Statistics()
    dependency = Dependency("store", statistics, clock=Clock())
    dependency.succeeded()
    for _ in range(3):
        dependency.failed("timeout")
    assert not dependency.allows()
    assert statistics.breakers["store"] == BreakerState.OPEN

"""What the log says of a dependency changes at most once a second each way; breaker and status do not wait."""

from __future__ import annotations

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
    with structlog.testing.capture_logs() as logs:
        for _ in range(2000):  # 20 s
            clock.now += 0.005
            dependency.succeeded()
            clock.now += 0.005
            dependency.failed("timeout")
    assert 2 <= len(logs) <= 42


def test_status_changes_at_once_and_the_log_follows_within_a_second() -> None:
    clock, statistics = Clock(), Statistics()
    dependency = Dependency("store", statistics, clock=clock)
    with structlog.testing.capture_logs() as logs:
        dependency.succeeded()
        dependency.failed("timeout")
        assert not dependency.is_up
        assert dependency.problem == "timeout"
        clock.now += 0.5
        dependency.succeeded()
        assert dependency.is_up
        clock.now += 0.5
        dependency.succeeded()
        clock.now += 10.0
        dependency.succeeded()
    assert [line["event"] for line in logs] == ["store_up", "store_down", "store_up"]


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

"""A dependency of the server: its breaker, and whether it is up, for status, metrics and the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from inference_server.core.breaker import Breaker, BreakerState
from inference_server.telemetry.statistics import Statistics

_log = structlog.get_logger()

_MAX_OPEN_SECONDS: Final = 1.0
"""Longest time without a probe, so that a dependency that has come back is used again within a second."""


_STATE_SECONDS: Final = 1.0
"""Shortest time between two changes from up to down or back, and between two log lines with one reason: a dependency
that is slow answers some callers in time and others not, dozens of times a second. The next report after this time says
what is true then."""
_MAX_REASONS: Final = 64


class Dependency:
    """The state of a dependency, from the outcomes that its callers report. Down until the first success."""

    def __init__(
        self,
        name: str,
        statistics: Statistics,
        breaker: Breaker | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is the dependency's name in status, metrics and the log."""
        self._clock = clock
        self._was_up = False
        self._may_turn_at = 0.0
        self._may_log_at: dict[str, float] = {}
        self._name = name
        self._statistics = statistics
        self._statistics.dependencies_up[name] = False
        self._breaker = breaker or Breaker(name, max_open_seconds=_MAX_OPEN_SECONDS, on_change=statistics.watch)
        self._warning = ""
        self._logged = ""
        """The reason that the last line gave for being down; empty: that line said up, or there is none yet."""
        statistics.watch(self._breaker)

    @property
    def is_up(self) -> bool:
        """Whether it answered last time; what is reported within a second of a change waits for the next report."""
        return self._statistics.dependencies_up[self._name]

    @property
    def problem(self) -> str:
        """Why it is down, or what endangers it although it is up; empty: nothing is known."""
        return self._statistics.dependency_problems.get(self._name, "")

    def allows(self) -> bool:
        """Whether the caller may call it. Every call that is allowed must be followed by `succeeded`, `failed` or
        `refused`."""
        return self._breaker.allows()

    def may_be_probed(self) -> bool:
        """Whether a probe may be sent: always while the breaker is closed, else as the breaker allows."""
        return self._breaker.state is BreakerState.CLOSED or self._breaker.allows()

    def succeeded(self) -> None:
        """Reports that the dependency answered."""
        self._breaker.succeeded()
        if not self.is_up and self._turn(up=True):
            self._show(self._warning)
            self._logged = ""
            _log.info(f"{self._name}_up")

    def failed(self, reason: str) -> None:
        """Reports that the dependency did not answer, or not in time. `reason` is for status and log."""
        self._breaker.failed()
        self._go_down(reason)

    def refused(self, reason: str) -> None:
        """Reports that the dependency answers, and cannot do its work: it is down, and callers still ask it, because
        its answer says what they should do."""
        self._breaker.succeeded()
        self._go_down(reason)

    def warned(self, warning: str) -> None:
        """Reports what endangers a dependency that answers; empty: nothing does."""
        if warning != self._warning:
            self._warning = warning
            if warning:
                _log.warning(f"{self._name}_warning", warning=warning)
        if self.is_up:
            self._show(warning)

    def _go_down(self, reason: str) -> None:
        if self.is_up and not self._turn(up=False):
            return
        self._show(reason)
        now = self._clock()
        if reason == self._logged or now < self._may_log_at.get(reason, 0.0):
            return
        if len(self._may_log_at) >= _MAX_REASONS:
            self._may_log_at.clear()
        self._may_log_at[reason] = now + _STATE_SECONDS
        self._logged = reason
        _log.warning(f"{self._name}_down", reason=reason)

    def _turn(self, *, up: bool) -> bool:
        """Changes the state, unless it has changed within the last second; the first success is no change. Returns
        whether it did."""
        now = self._clock()
        if now < self._may_turn_at:
            return False
        if self._was_up:
            self._may_turn_at = now + _STATE_SECONDS
        self._was_up = True
        self._statistics.dependencies_up[self._name] = up
        return True

    def _show(self, problem: str) -> None:
        if problem:
            self._statistics.dependency_problems[self._name] = problem
        else:
            self._statistics.dependency_problems.pop(self._name, None)

"""A dependency of the server: its breaker, and whether it is up, for status, metrics and the log."""

from __future__ import annotations

from typing import Final

import structlog

from inference_server.core.breaker import Breaker, BreakerState
from inference_server.telemetry.statistics import Statistics

_log = structlog.get_logger()

_MAX_OPEN_SECONDS: Final = 1.0
"""Longest time without a probe, so that a dependency that has come back is used again within a second."""


class Dependency:
    """The state of a dependency, from the outcomes that its callers report. Down until the first success."""

    def __init__(self, name: str, statistics: Statistics, breaker: Breaker | None = None) -> None:
        """`name` is the dependency's name in status, metrics and the log."""
        self._name = name
        self._statistics = statistics
        self._statistics.dependencies_up[name] = False
        self._breaker = breaker or Breaker(name, max_open_seconds=_MAX_OPEN_SECONDS, on_change=statistics.watch)
        self._warning = ""
        self._logged_reason = ""
        statistics.watch(self._breaker)

    @property
    def is_up(self) -> bool:
        """Whether it answered last time."""
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
        if not self.is_up:
            self._statistics.dependencies_up[self._name] = True
            self._show(self._warning)
            self._logged_reason = ""
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
        was_up = self.is_up
        self._statistics.dependencies_up[self._name] = False
        self._show(reason)
        if was_up or reason != self._logged_reason:
            self._logged_reason = reason
            _log.warning(f"{self._name}_down", reason=reason)

    def _show(self, problem: str) -> None:
        if problem:
            self._statistics.dependency_problems[self._name] = problem
        else:
            self._statistics.dependency_problems.pop(self._name, None)

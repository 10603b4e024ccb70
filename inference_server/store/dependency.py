"""A dependency of the server behind its breaker, and whether it is up, as status, metrics and log say."""

from __future__ import annotations

from typing import Final

import structlog

from inference_server.core.breaker import Breaker, BreakerState
from inference_server.telemetry.statistics import Statistics

_log = structlog.get_logger()

_MAX_OPEN_SECONDS: Final = 1.0
"""Longest time for which a dependency is not tried again: it is of use again soon after it has come back."""


class Dependency:
    """Who asks a dependency reports here what came of it. Down until the first good report."""

    def __init__(self, name: str, statistics: Statistics, breaker: Breaker | None = None) -> None:
        """`name` is what it is called wherever its state is shown."""
        self._name = name
        self._statistics = statistics
        self._statistics.dependencies_up[name] = False
        self._breaker = breaker or Breaker(name, max_open_seconds=_MAX_OPEN_SECONDS, on_change=statistics.watch)
        statistics.watch(self._breaker)

    def allows(self) -> bool:
        """Whether it may be asked. Who may must report."""
        return self._breaker.allows()

    def may_be_probed(self) -> bool:
        """Whether a probe may go: always while all is well, and as the breaker says when it is not."""
        return self._breaker.state is BreakerState.CLOSED or self._breaker.allows()

    def succeeded(self) -> None:
        """It answered."""
        self._breaker.succeeded()
        if not self._statistics.dependencies_up[self._name]:
            self._statistics.dependencies_up[self._name] = True
            _log.info(f"{self._name}_up")

    def failed(self, reason: str) -> None:
        """It did not answer, or not in time. `reason` is for the log."""
        self._breaker.failed()
        if self._statistics.dependencies_up[self._name]:
            self._statistics.dependencies_up[self._name] = False
            _log.warning(f"{self._name}_down", reason=reason)

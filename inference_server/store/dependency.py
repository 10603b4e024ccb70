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
        statistics.watch(self._breaker)

    def allows(self) -> bool:
        """Whether the caller may call it. Every call that is allowed must be followed by `succeeded` or `failed`."""
        return self._breaker.allows()

    def may_be_probed(self) -> bool:
        """Whether a probe may be sent: always while the breaker is closed, else as the breaker allows."""
        return self._breaker.state is BreakerState.CLOSED or self._breaker.allows()

    def succeeded(self) -> None:
        """Reports that the dependency answered."""
        self._breaker.succeeded()
        if not self._statistics.dependencies_up[self._name]:
            self._statistics.dependencies_up[self._name] = True
            _log.info(f"{self._name}_up")

    def failed(self, reason: str) -> None:
        """Reports that the dependency did not answer, or not in time. `reason` is for the log."""
        self._breaker.failed()
        if self._statistics.dependencies_up[self._name]:
            self._statistics.dependencies_up[self._name] = False
            _log.warning(f"{self._name}_down", reason=reason)

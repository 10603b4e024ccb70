"""Circuit breakers: a dependency that keeps failing is not called for a while, so that no request waits for it.

    if not breaker.allows():
        return the degraded answer
    try:
        value = await ask()
    except ConnectionError:
        breaker.failed()
    else:
        breaker.succeeded()

Separate calls, and not a wrapper around one: what is guarded here is a batch that many requests share, and some
failures are replies, not exceptions. Why no library: docs/decisions/0013-circuit-breakers.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum


class BreakerState(StrEnum):
    """Which calls a breaker allows. The values are the words of metrics and GetServingStatus."""

    CLOSED = "closed"
    """All calls."""
    OPEN = "open"
    """None, until the open time has passed and a caller asks again."""
    HALF_OPEN = "half_open"
    """One call, the probe, whose outcome closes the breaker or opens it again."""


_CLOSED, _OPEN, _HALF_OPEN = BreakerState


class Breaker:
    """The breaker of one dependency. Not thread-safe."""

    __slots__ = (
        "_clock",
        "_failures",
        "_failures_to_open",
        "_first_open_seconds",
        "_max_open_seconds",
        "_may_open_at",
        "_min_closed_seconds",
        "_on_change",
        "_open_seconds",
        "_probe_seconds",
        "_state",
        "_wait_until",
        "name",
    )

    def __init__(
        self,
        name: str,
        *,
        failures_to_open: int = 3,
        open_seconds: float = 0.5,
        max_open_seconds: float = 5.0,
        min_closed_seconds: float = 1.0,
        probe_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[Breaker], None] | None = None,
    ) -> None:
        """A closed breaker.

        `failures_to_open` failures in a row open it: for `open_seconds` at first, and for twice as long after every
        probe that fails, up to `max_open_seconds`. So once the dependency is back, a call gets through after at most
        that time. Once it has closed, it stays closed for at least `min_closed_seconds`: a dependency that is slow, and
        answers only some calls in time, opens it no more often. A probe that has reported nothing after `probe_seconds`
        counts as lost, and the next caller becomes the probe. `on_change` is called after every change of state. Raises
        ValueError for options out of range.
        """
        if failures_to_open < 1 or not 0.0 < open_seconds <= max_open_seconds or probe_seconds <= 0.0:
            raise ValueError(
                f"breaker {name}: needs failures_to_open >= 1, 0 < open_seconds <= max_open_seconds, probe_seconds > 0"
            )
        self.name = name
        self._failures_to_open = failures_to_open
        self._first_open_seconds = open_seconds
        self._max_open_seconds = max_open_seconds
        self._min_closed_seconds = min_closed_seconds
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._on_change = on_change
        self._state = _CLOSED
        self._failures = 0
        self._open_seconds = open_seconds
        self._may_open_at = 0.0
        """While closed: the time before which no failures open it."""
        self._wait_until = 0.0
        """While open: the time of the next probe. While half-open: the time at which the probe counts as lost."""

    @property
    def state(self) -> BreakerState:
        """The state now. An open breaker becomes half-open when a caller asks, not by the time alone."""
        return self._state

    def allows(self) -> bool:
        """Whether the caller may call the dependency.

        Every call that is allowed must be followed by `succeeded` or `failed`, unless it is cancelled: a probe without
        a report counts as lost after `probe_seconds`.
        """
        if self._state is _CLOSED:
            return True
        now = self._clock()
        if now < self._wait_until:
            return False
        self._wait_until = now + self._probe_seconds
        self._change_to(_HALF_OPEN)
        return True

    def succeeded(self) -> None:
        """The dependency answered. Closes the breaker in any state: the answer need not be the probe's."""
        self._failures = 0
        if self._state is not _CLOSED:
            self._open_seconds = self._first_open_seconds
            self._may_open_at = self._clock() + self._min_closed_seconds
            self._change_to(_CLOSED)

    def failed(self) -> None:
        """The dependency failed, or did not answer in time."""
        if self._state is _OPEN:
            return  # the call began before the breaker opened, so its failure is no news
        if self._state is _HALF_OPEN:
            self._open_seconds = min(self._open_seconds * 2.0, self._max_open_seconds)
        else:
            self._failures += 1
            if self._failures < self._failures_to_open or self._clock() < self._may_open_at:
                return
        self._failures = 0
        self._wait_until = self._clock() + self._open_seconds
        self._change_to(_OPEN)

    def _change_to(self, state: BreakerState) -> None:
        if state is self._state:
            return
        self._state = state
        if self._on_change is not None:
            self._on_change(self)

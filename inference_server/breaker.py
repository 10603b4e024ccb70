from __future__ import annotations

import time
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    def __init__(self, name, *, failures_to_open=3, open_seconds=0.5, max_open_seconds=5.0, clock=time.monotonic):
        self.name = name
        self.state = BreakerState.CLOSED
        self._f = 0
        self._n = failures_to_open
        self._o = open_seconds
        self._m = max_open_seconds
        self._clock = clock
        self._until = 0.0
        self._cur = open_seconds
        self.opened_total = 0

    def allows(self):
        if self.state is BreakerState.CLOSED:
            return True
        if self._clock() >= self._until:
            self.state = BreakerState.HALF_OPEN
            self._until = self._clock() + 1
            return True
        return False

    def succeeded(self):
        self._f = 0
        self.state = BreakerState.CLOSED
        self._cur = self._o

    def failed(self):
        self._f += 1
        if self.state is BreakerState.HALF_OPEN or self._f >= self._n:
            if self.state is BreakerState.HALF_OPEN:
                self._cur = min(self._cur * 2, self._m)
            self.state = BreakerState.OPEN
            self._until = self._clock() + self._cur
            self.opened_total += 1

"""Bounded waits, for tests of programs that run beside them."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_SECONDS = 60.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Waits until `condition` is true. Fails, naming what was awaited, after a time that only a failing test needs."""
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {LIMIT_SECONDS:g} s: {what}"
        time.sleep(0.005)

"""Bounded waits, for tests of programs that run in parallel."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_SECONDS = 60.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Waits until `condition` returns True. After 60 s, fails with a message that names `what`."""
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {LIMIT_SECONDS:g} s: {what}"
        time.sleep(0.005)

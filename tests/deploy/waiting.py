"""Bounded waits, and questions about processes, for the tests of the local stack."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

LIMIT_SECONDS = 30.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {LIMIT_SECONDS:g} s: {what}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """A zombie does not run: it waits for its parent to ask, or for the init process of the container to do so."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

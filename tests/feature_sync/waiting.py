"""Bounded waits for the tests of feature_sync."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import redis

LIMIT_SECONDS = 60.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {LIMIT_SECONDS:g} s: {what}"
        time.sleep(0.005)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

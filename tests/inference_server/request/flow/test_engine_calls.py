"""Calls into the engines: here while they are short, in a thread when they have become long."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inference_server.request.flow.engine_calls import LONG_SECONDS, EngineCalls
from inference_server.request.flow.ladder import RETRIEVE, Ladder


@pytest.mark.parametrize(
    ("expected_seconds", "is_here"), [(0.0, True), (LONG_SECONDS, True), (2 * LONG_SECONDS, False)]
)
async def test_where_a_call_runs(expected_seconds: float, is_here: bool) -> None:
    with ThreadPoolExecutor(1) as threads:
        engines = EngineCalls(threads, Ladder(retrieve=expected_seconds))
        thread, seconds = await engines.call(RETRIEVE, threading.current_thread)
    assert (thread is threading.current_thread()) == is_here
    assert seconds >= 0.0


@pytest.mark.parametrize("expected_seconds", [0.0, 2 * LONG_SECONDS])
async def test_what_a_call_raises_is_raised(expected_seconds: float) -> None:
    with ThreadPoolExecutor(1) as threads, pytest.raises(ValueError, match="invalid literal"):
        await EngineCalls(threads, Ladder(retrieve=expected_seconds)).call(RETRIEVE, int, "x")

"""The benchmark of the event path runs, and an acknowledged event changes the following answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.event_path.freshness import freshness
from benchmarks.event_path.throughput import throughput
from tests.support.serving import valkey

pytestmark = pytest.mark.process


async def test_an_event_takes_effect_on_the_answers(tmp_path: Path) -> None:
    async with valkey(tmp_path / "store") as store:
        measured = await freshness(store, tmp_path, num_probes=5, background_per_second=100)
    assert len(measured.seconds) == 5  # the probe itself fails if an event has no effect


async def test_a_backlog_is_applied(tmp_path: Path) -> None:
    async with valkey(tmp_path / "store") as store:
        measured = await throughput(store, tmp_path, num_events=2_000)
    assert 0 < measured.num_events <= 2_000
    assert measured.seconds > 0

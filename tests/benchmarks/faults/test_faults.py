"""Faults at a fifth of their length, and impressions under two kills, on one stack, judged as in benchmarks/results."""

from __future__ import annotations

import pytest

from benchmarks.faults import impressions
from benchmarks.faults.__main__ import page
from benchmarks.faults.measure import measure_on
from benchmarks.faults.stack import registry_with_a_model, running_stack
from benchmarks.faults.table import FAULTS

pytestmark = pytest.mark.process

SHORT = {"kill_store", "garbage", "reset", "half_close", "kill_sync", "few_files"}
PATIENT = {"recommend_seconds": 20.0, "record_seconds": 20.0}
"""Deadlines that a busy machine meets: what fails here would fail on any machine."""


async def test_no_answer_fails_and_no_acknowledged_event_or_impression_is_lost_or_doubled(tmp_path) -> None:
    async with running_stack(tmp_path, registry_with_a_model(tmp_path), impressions="stream") as stack:
        rows = [
            await measure_on(stack, fault, time_scale=0.2, deadlines=PATIENT) for fault in FAULTS if fault.name in SHORT
        ]
        shown = await impressions.measure(stack, num_kills=2, pause_seconds=1.0)
    for row in rows:
        assert row.holds, row
        assert row.answers > 100, row
        assert row.acknowledged > 10, row
    assert sum(row.degraded for row in rows) > 50
    text = page(rows)
    assert "6 of 6 rows hold" in text
    assert all(row.what in text for row in rows)
    assert (shown.lost, shown.doubled) == (0, 0), shown
    assert shown.kills == {"worker": 1, "feature_sync": 1}
    assert shown.appended > 100, shown
    assert shown.unappended <= shown.answers / 4, shown
    assert "0 impressions were lost and 0 doubled in 2 kills" in impressions.page(shown)

"""The drift gauges as Prometheus reads them, byte for byte."""

from __future__ import annotations

import re
import time
from pathlib import Path

from prometheus_client import generate_latest

from trainer.drift.column_report import ColumnReport
from trainer.drift.gauges import drift_gauges

GOLDEN = Path(__file__).with_name("drift_gauges.txt")


def test_the_gauges_of_two_reports() -> None:
    registry = drift_gauges(
        {
            "items": ColumnReport.of({"price": 0.2, "genre": 0.01}, {"price": 0.1, "genre": 0.1}),
            "events": ColumnReport.of({"type": 0.0}, {"type": 0.1}),
        },
        drift_share=0.5,
    )
    measured_at = registry.get_sample_value("tandem_drift_timestamp_seconds")
    assert measured_at is not None
    assert abs(time.time() - measured_at) < 60.0
    text = re.sub(r"(?m)^(tandem_drift_timestamp_seconds) .*$", r"\1 0.0", generate_latest(registry).decode())
    assert text == GOLDEN.read_text()

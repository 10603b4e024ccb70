"""The /metrics page, byte for byte, for known counts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prometheus_client import Counter, generate_latest

from feature_sync.core.lag import Lag
from feature_sync.telemetry.metrics import Metrics
from tandem.ops.metrics import Kind, Metric

GOLDEN = Path(__file__).with_name("metrics_page.txt")


def page(metrics: Metrics) -> str:
    """The program's own metrics, without the samples of their creation times."""
    lines = generate_latest(metrics.registry).decode().splitlines(keepends=True)
    creation_samples = ("_created ", "_created{")
    return "".join(
        line
        for line in lines
        if "tandem_" in line and (line.startswith("#") or not any(part in line for part in creation_samples))
    )


def test_the_page_of_a_busy_program() -> None:
    metrics = Metrics()
    metrics.of_stream("events")
    stream, archive = metrics.of_stream("item-changes"), metrics.of_archive("events")
    stream.count_applied("upsert", 3)
    stream.duplicates.inc(2)
    stream.dead.inc()
    stream.conflicts.inc(4)
    stream.batch_seconds.observe(0.03)
    stream.report_lag(Lag(num_entries=5, oldest_seconds=1.5))
    stream.report_back()
    archive.archived.inc(8)
    archive.report_waiting(2.5)
    metrics.report_silence({"archive of events": 61.5})
    metrics.item_vectors.inc(6)
    metrics.item_vector_seconds.inc(0.5)
    metrics.item_vector_failures.inc()
    metrics.vectors_refreshed.inc(9)
    assert page(metrics) == GOLDEN.read_text()


class MetricsWithNaps(Metrics):
    """A new metric needs this declaration and a line that counts."""

    naps: Annotated[Counter, Metric("tandem_sync_naps", "Naps.", Kind.COUNTER, labels=("stream",), unit="naps")]


def test_a_metric_that_was_declared_alone_is_on_the_page() -> None:
    metrics = MetricsWithNaps()
    metrics.naps.labels("events").inc(2)
    assert 'tandem_sync_naps_total{stream="events"} 2.0' in page(metrics).splitlines()

"""Drift as Prometheus gauges: a file for node_exporter's textfile collector, and a Pushgateway where there is one.

The only module of the trainer that imports prometheus_client. A program that runs for minutes a night is no target to
scrape.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, push_to_gateway, write_to_textfile

from trainer.core.errors import GaugesError
from trainer.drift.evidently_reports import ColumnReport

_JOB: Final = "tandem_drift"


def drift_gauges(reports: Mapping[str, ColumnReport], *, drift_share: float) -> CollectorRegistry:
    """The gauges of a run."""
    registry = CollectorRegistry()
    drifted = Gauge("tandem_drift", "1 where a report says drift, else 0", ["report"], registry=registry)
    share = Gauge("tandem_drift_share", "Share of a report's columns that drifted", ["report"], registry=registry)
    distance = Gauge(
        "tandem_drift_distance", "Distance of recent from reference", ["report", "column"], registry=registry
    )
    limit = Gauge("tandem_drift_limit", "Distance that counts as drift", ["report", "column"], registry=registry)
    for name, report in reports.items():
        drifted.labels(name).set(report.drifted_share >= drift_share)
        share.labels(name).set(report.drifted_share)
        for column, value in report.distances.items():
            distance.labels(name, column).set(value)
            limit.labels(name, column).set(report.limits[column])
    Gauge("tandem_drift_timestamp_seconds", "When drift was measured", registry=registry).set_to_current_time()
    return registry


def publish_gauges(registry: CollectorRegistry, path: Path, *, pushgateway_url: str) -> None:
    """Writes the file, and pushes where `pushgateway_url` is not empty. Raises GaugesError when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)
    if pushgateway_url:
        try:
            push_to_gateway(pushgateway_url, job=_JOB, registry=registry)
        except OSError as error:
            raise GaugesError(f"{pushgateway_url}: {error}") from error

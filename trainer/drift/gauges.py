"""Drift as Prometheus gauges: a file for node_exporter's textfile collector, and a Pushgateway if configured.

The only module of the trainer that imports prometheus_client. Prometheus cannot scrape a program that runs for a few
minutes each night.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from prometheus_client import CollectorRegistry, Gauge, push_to_gateway, write_to_textfile

from tandem.ops.metrics import Kind, Metric, declared
from tandem.ops.secrets import without_password
from trainer.core.errors import GaugesError
from trainer.drift.column_report import ColumnReport

_JOB: Final = "tandem_drift"


class DriftGauges:
    """The gauges of a drift run, each declared once, in the order of the file."""

    drifted: Annotated[
        Gauge,
        Metric(
            "tandem_drift",
            "1 where a report says drift, else 0",
            Kind.GAUGE,
            labels=("report",),
            unit="0 or 1",
            investigate_when="It is 1 on most nights: every training is a full one.",
        ),
    ]
    share: Annotated[
        Gauge,
        Metric(
            "tandem_drift_share",
            "Share of a report's columns that drifted",
            Kind.GAUGE,
            labels=("report",),
            unit="share, 0 to 1",
            investigate_when="It is at least `TANDEM_DRIFT_SHARE`: that is what `tandem_drift` says.",
        ),
    ]
    distance: Annotated[
        Gauge,
        Metric(
            "tandem_drift_distance",
            "Distance of recent from reference",
            Kind.GAUGE,
            labels=("report", "column"),
            unit="standard deviations for numbers, maximum mean discrepancy for vectors, "
            "Jensen-Shannon distance for the rest",
            investigate_when="It is at least `tandem_drift_limit`: this column drifted.",
        ),
    ]
    limit: Annotated[
        Gauge,
        Metric(
            "tandem_drift_limit",
            "Distance that counts as drift",
            Kind.GAUGE,
            labels=("report", "column"),
            unit="that of `tandem_drift_distance`",
        ),
    ]
    measured_at: Annotated[
        Gauge,
        Metric(
            "tandem_drift_timestamp_seconds",
            "When drift was measured",
            Kind.GAUGE,
            unit="seconds since 1970",
            investigate_when="It is older than a day: the nightly run failed, or found too few events to compare.",
        ),
    ]

    def __init__(self, registry: CollectorRegistry) -> None:
        for attribute, metric in declared(type(self)).items():
            setattr(self, attribute, Gauge(metric.name, metric.help, metric.labels, registry=registry))


def drift_gauges(reports: Mapping[str, ColumnReport], *, drift_share: float) -> CollectorRegistry:
    """The gauges of a drift run. A report says drift if at least `drift_share` of its columns drifted."""
    registry = CollectorRegistry()
    gauges = DriftGauges(registry)
    for name, report in reports.items():
        gauges.drifted.labels(name).set(report.drifted_share >= drift_share)
        gauges.share.labels(name).set(report.drifted_share)
        for column, value in report.distances.items():
            gauges.distance.labels(name, column).set(value)
            gauges.limit.labels(name, column).set(report.limits[column])
    gauges.measured_at.set_to_current_time()
    return registry


def publish_gauges(registry: CollectorRegistry, path: Path, *, pushgateway_url: str) -> None:
    """Writes the file, and pushes the gauges unless `pushgateway_url` is empty. Raises GaugesError if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)
    if pushgateway_url:
        try:
            push_to_gateway(pushgateway_url, job=_JOB, registry=registry)
        except OSError as error:
            raise GaugesError(f"{without_password(pushgateway_url)}: {error}") from error

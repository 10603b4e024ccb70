"""Writes docs/reference/metrics.md from the declarations of the metrics of all programs.

`python -m deploy.packaging.metrics_page` does it. A test compares the page with what this module would write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from feature_sync.telemetry.metrics import Metrics
from inference_server.supervisor.server_metrics import SERVER_METRICS
from inference_server.telemetry.statistics import Statistics
from inference_server.telemetry.worker_metric import Merge, WorkerMetric, worker_metrics
from tandem.ops.metrics import Kind, Metric, declared
from trainer.drift.gauges import DriftGauges

PAGE = Path("docs/reference/metrics.md")

_MERGES: Final = {
    Merge.SUM: "The sum over the workers.",
    Merge.MAX: "The largest value of any worker.",
    Merge.MIN: "The smallest value of any worker.",
    Merge.WORST: "The worst state of any worker.",
}


def all_metrics() -> dict[str, Sequence[Metric]]:
    """Every metric by program, in the order in which the program shows it."""
    return {
        "inference_server": (*worker_metrics(Statistics).values(), *SERVER_METRICS),
        "feature_sync": tuple(declared(Metrics).values()),
        "trainer": tuple(declared(DriftGauges).values()),
    }


def metrics_page() -> str:
    """The page: a table for each program."""
    metrics = all_metrics()
    parts = [
        "# Metrics",
        "Every Prometheus metric, by program. This page is written by `python -m deploy.packaging.metrics_page` from "
        "the declarations in the code; how to add one is [a recipe](../contributing/add-a-prometheus-metric.md).",
        "Counters count from the start of the program: query `rate(...)` or `increase(...)`. A histogram has the "
        "samples `_bucket`, `_sum` and `_count`. The metrics `process_*` and `python_*` on the same page come from "
        "Prometheus' Python client and describe the process that answers.",
        "## inference_server",
        "`http://<host>:9100/metrics` (`TANDEM_METRICS_PORT`), served by the supervisor, for all workers together: "
        "counters and histograms are sums over the workers, those that have ended included.",
        _table(metrics["inference_server"]),
        "## feature_sync",
        "`http://<host>:9101/metrics` (`TANDEM_SYNC_METRICS_PORT`), while `feature_sync run` is at work.",
        _table(metrics["feature_sync"]),
        "## trainer",
        "`trainer drift` writes its gauges to `$TANDEM_DATA_DIR/metrics/tandem_drift.prom`, for node_exporter's "
        "textfile collector, and to the Pushgateway at `TANDEM_PUSHGATEWAY_URL`.",
        _table(metrics["trainer"]),
    ]
    return "\n\n".join(parts) + "\n"


def _table(metrics: Iterable[Metric]) -> str:
    rows = [
        "| metric | type | labels | unit | meaning | investigate when |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for metric in metrics:
        labels = _quoted(metric.labels)
        meaning = " ".join([f"{metric.help.removesuffix('.')}.", *_of_workers(metric)])
        rows.append(
            f"| `{metric.exposed_name}` | {metric.kind} | {labels} | {metric.unit} | {meaning} "
            f"| {metric.investigate_when} |"
        )
    return "\n".join(rows)


def _of_workers(metric: Metric) -> Iterable[str]:
    """Sentences about the values of the last label, and about the merge of a gauge."""
    if not isinstance(metric, WorkerMetric):
        return
    if known := metric.values or tuple(metric.severity):
        yield f"`{metric.labels[-1]}`: {_quoted(known)}."
    if metric.kind is Kind.GAUGE:
        yield _MERGES[metric.merge]


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    PAGE.write_text(metrics_page())

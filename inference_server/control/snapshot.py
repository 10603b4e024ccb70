"""Statistics on their way from the workers to the supervisor: as plain values, and merged as each metric declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference_server.telemetry.histogram import Histogram
from inference_server.telemetry.statistics import Statistics
from inference_server.telemetry.worker_metric import worker_metrics

Plain = Mapping[str, Any]
"""A snapshot that JSON can carry: the value of each metric by the attribute that counts it."""


def to_plain(statistics: Statistics) -> Plain:
    """What was counted, as JSON can carry it."""
    statistics.refresh()
    return {attribute: _encode(getattr(statistics, attribute)) for attribute in worker_metrics(type(statistics))}


def add(statistics: Statistics, snapshot: Plain) -> None:
    """Merges the snapshot of a worker into `statistics`."""
    for attribute, metric in worker_metrics(type(statistics)).items():
        if attribute in snapshot:
            own, counted = getattr(statistics, attribute), _decode(snapshot[attribute])
            setattr(statistics, attribute, metric.merged(own, counted))


def add_ended(statistics: Statistics, snapshot: Plain) -> None:
    """Merges what remains true of a worker that has ended: what it counted, not what it saw."""
    metrics = worker_metrics(type(statistics))
    kept = {
        attribute: value
        for attribute, value in snapshot.items()
        if attribute in metrics and metrics[attribute].outlives_worker
    }
    add(statistics, kept)


def _encode(value: Any) -> Any:
    if isinstance(value, Histogram):
        return {"bounds": value.bounds, "counts": list(value.counts), "total": value.total}
    if isinstance(value, dict):
        # Pairs, because the key of a metric with several labels is a tuple, which JSON has not as a key.
        return {"pairs": [[key, _encode(item)] for key, item in value.items()]}
    return value


def _decode(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "counts" in value:
        return Histogram(tuple(value["bounds"]), value["counts"], value["total"])
    return {tuple(key) if isinstance(key, list) else key: _decode(item) for key, item in value["pairs"]}

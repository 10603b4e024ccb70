"""Prometheus: shows `Statistics` at /metrics. The only module that imports prometheus_client."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from inference_server.errors import PortUnavailable
from inference_server.serving_model import ModelSlot
from inference_server.statistics import Histogram, Statistics


class StatisticsCollector(Collector):
    """Turns the worker's numbers into metrics when they are scraped, in the scraper's thread."""

    def __init__(self, statistics: Statistics, models: ModelSlot) -> None:
        self._statistics = statistics
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """All metrics of this program."""
        statistics = self._statistics
        yield _counter("tandem_requests", "Recommend calls by gRPC status.", "code", statistics.requests_by_code)
        yield _histogram("tandem_request_seconds", "Time of whole Recommend calls.", {"": statistics.request_seconds})
        yield _counter("tandem_http_requests", "HTTP requests by status.", "status", statistics.http_requests_by_status)
        yield _histogram("tandem_http_request_seconds", "Time of HTTP requests.", {"": statistics.http_request_seconds})
        yield _histogram("tandem_stage_seconds", "Time of a request's stages.", statistics.stage_seconds, "stage")
        yield _counter("tandem_answers", "Answers by how they were made.", "source", statistics.answers_by_source)
        yield _counter("tandem_degraded", "Degraded answers by reason.", "reason", statistics.degraded_by_reason)
        yield _histogram("tandem_store_batch_users", "Users in one store read.", {"": statistics.store_batch_users})
        yield CounterMetricFamily("tandem_user_tower_runs", "User vectors computed.", statistics.user_tower_runs)
        yield CounterMetricFamily("tandem_bundle_swaps", "Bundles opened to serve.", statistics.bundle_swaps)
        yield _counter(
            "tandem_bundle_refused", "Bundles refused by kind of reason.", "reason_kind", statistics.refusals_by_kind
        )
        yield _gauge("tandem_dependency_up", "Whether a dependency answers.", "dependency", statistics.dependencies_up)
        yield self._model_info()

    def _model_info(self) -> Metric:
        info = GaugeMetricFamily(
            "tandem_model_info", "The model that serves.", labels=("model_version", "variant", "registry_version")
        )
        model = self._models.current
        if model is not None:
            info.add_metric((model.version, model.variant, model.registry_version), 1)
        return info


class MetricsServer:
    """The endpoint /metrics, in threads of its own."""

    def __init__(self, collector: Collector, *, host: str, port: int) -> None:
        """Begins to answer. Port 0 takes any free one. Raises PortUnavailable."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(collector)
        self._server: WSGIServer
        self._thread: threading.Thread
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise PortUnavailable(f"cannot listen on {host}:{port} for metrics: {error}") from error
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stops answering and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


# Scrapes run in another thread than the event loop that counts: each mapping is copied before it is walked.
def _counter(name: str, documentation: str, label: str, counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=(label,))
    for value, count in dict(counts).items():
        family.add_metric((str(value),), count)
    return family


def _gauge(name: str, documentation: str, label: str, values: Mapping[str, bool]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=(label,))
    for value, number in dict(values).items():
        family.add_metric((value,), number)
    return family


def _histogram(name: str, documentation: str, histograms: dict[str, Histogram], label: str = "") -> Metric:
    family = HistogramMetricFamily(name, documentation, labels=(label,) if label else ())
    for value, histogram in histograms.items():
        cumulative = list(accumulate(histogram.counts))
        buckets = list(zip([*map(str, histogram.bounds), "+Inf"], cumulative, strict=True))
        family.add_metric((value,) if label else (), buckets, histogram.total)
    return family

"""Prometheus: shows the whole server at /metrics, on one port. The only module that imports prometheus_client.

The supervisor serves it, so that one scrape sees all workers, and sees them also while one is dead or hangs. Counters
and histograms are sums over the workers; what has no meaning as a sum has a label `worker`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from inference_server.core.errors import PortUnavailable
from inference_server.supervisor.server_metrics import SERVER_METRICS
from inference_server.supervisor.server_view import ServerView
from inference_server.telemetry.worker_metric import WorkerMetric, worker_metrics
from tandem.ops import metrics_server
from tandem.ops.listening import printed
from tandem.ops.metrics import Kind, Metric
from tandem.ops.metrics_access import AccessFiles

_FAMILIES: Final[dict[Kind, type[CounterMetricFamily | GaugeMetricFamily]]] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
}


class StatisticsCollector(Collector):
    """Turns the server's numbers into metrics when they are scraped, in the scraper's thread."""

    def __init__(self, read: Callable[[], ServerView]) -> None:
        self._read = read

    def describe(self) -> Sequence[Family]:
        """Nothing: the names are not known before the first scrape, and asking for them would be one."""
        return ()

    def collect(self) -> Iterator[Family]:
        """All metrics of this program."""
        view = self._read()
        for attribute, metric in worker_metrics(type(view.statistics)).items():
            yield _family(metric, _samples(metric, getattr(view.statistics, attribute)))
        for server_metric in SERVER_METRICS:
            yield _family(server_metric, server_metric.read(view))


class MetricsServer:
    """The endpoint /metrics, in threads of its own."""

    def __init__(self, collector: Collector, *, host: str, port: int, files: AccessFiles) -> None:
        """Begins to answer. Port 0 takes any free one. Raises PortUnavailable."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(collector)
        try:
            self._server = metrics_server.MetricsServer(make_wsgi_app(registry), host=host, port=port, files=files)
        except OSError as error:
            raise PortUnavailable(f"cannot listen on {printed(host, port)} for metrics: {error}") from error
        self.port: int = self._server.port

    def close(self) -> None:
        """Stops answering and frees the port."""
        self._server.close()


def _samples(metric: WorkerMetric, value: Any) -> Iterable[tuple[tuple[str, ...], Any]]:
    """Label values and value of every sample of what workers counted."""
    if not metric.labels:
        yield (), value
        return
    for key, item in value.items():
        label_values = key if isinstance(key, tuple) else (str(key),)
        if metric.severity:
            for state in metric.severity:
                yield (*label_values, state), state == item
        else:
            yield label_values, item


def _family(metric: Metric, samples: Iterable[tuple[tuple[str, ...], Any]]) -> Family:
    """What the page shows of one metric."""
    if metric.kind is Kind.HISTOGRAM:
        histograms = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for label_values, histogram in samples:
            bounds = [*map(str, histogram.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
            histograms.add_metric(label_values, buckets, histogram.total)
        return histograms
    family = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
    for label_values, value in samples:
        family.add_metric(label_values, value)
    return family

"""Prometheus: shows the whole server at /metrics, on one port. The only module that imports prometheus_client.

The supervisor serves it, so that one scrape sees all workers, and sees them also while one is dead or hangs. Counters
and histograms are sums over the workers; what has no meaning as a sum has a label `worker`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from inference_server.core.breaker import BreakerState
from inference_server.core.errors import PortUnavailable
from inference_server.supervisor.server_view import ServerView, WorkerView
from inference_server.telemetry.statistics import Histogram, Statistics

_LIVE_CATALOGUE: Final = {
    "items": "Items recommended that changed since the bundle was made.",
    "dead_rows": "Items known to the model that are not recommended: deleted, or unavailable.",
    "waiting": "Changed items whose vector is not there yet.",
    "put_off": "Changes beyond the limit, which wait for the next bundle.",
    "sequence": "The last change of the catalogue that is in force.",
    "age_seconds": "Time since the store last confirmed that nothing else had changed.",
}


class StatisticsCollector(Collector):
    """Turns the server's numbers into metrics when they are scraped, in the scraper's thread."""

    def __init__(self, read: Callable[[], ServerView]) -> None:
        self._read = read

    def describe(self) -> Sequence[Metric]:
        """Nothing: the names are not known before the first scrape, and asking for them would be one."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics of this program."""
        view = self._read()
        yield from _of_statistics(view.statistics)
        yield from _of_workers(view.workers)
        yield from _of_bundle(view)


def _of_statistics(statistics: Statistics) -> Iterator[Metric]:
    yield _counter("tandem_requests", "Recommend calls by gRPC status.", "code", statistics.requests_by_code)
    yield _histogram("tandem_request_seconds", "Time of whole Recommend calls.", {"": statistics.request_seconds})
    yield _histogram("tandem_stage_seconds", "Time of a request's stages.", statistics.stage_seconds, "stage")
    yield _counter("tandem_answers", "Answers by how they were made.", "source", statistics.answers_by_source)
    yield _counter("tandem_degraded", "Degraded answers by reason.", "reason", statistics.degraded_by_reason)
    yield _counter("tandem_http_requests", "HTTP requests by status.", "status", statistics.http_requests_by_status)
    yield _histogram("tandem_http_request_seconds", "Time of HTTP requests.", {"": statistics.http_request_seconds})
    yield _histogram("tandem_batch_requests", "Requests in one micro-batch.", {"": statistics.batch_requests})
    yield _histogram("tandem_queue_seconds", "Wait for a micro-batch.", {"": statistics.queue_seconds})
    yield GaugeMetricFamily("tandem_queue_requests", "Requests that wait for a batch.", statistics.queue_requests)
    yield CounterMetricFamily(
        "tandem_dropped_requests", "Requests dropped because the caller had gone.", statistics.dropped_requests
    )
    yield from _of_writes(statistics)
    yield _breakers(statistics)
    yield from _of_live_catalogue(statistics)
    yield CounterMetricFamily("tandem_user_tower_runs", "User vectors computed.", statistics.user_tower_runs)
    yield CounterMetricFamily("tandem_bundle_swaps", "Bundles opened to serve.", statistics.bundle_swaps)
    yield _counter(
        "tandem_bundle_refused", "Bundles refused by kind of reason.", "reason_kind", statistics.refusals_by_kind
    )
    yield _gauge("tandem_dependency_up", "Whether a dependency answers.", "dependency", statistics.dependencies_up)
    yield CounterMetricFamily(
        "tandem_unauthenticated", "Calls without valid credentials.", statistics.num_unauthenticated
    )
    yield _counter("tandem_files_reloaded", "Changed files taken into use.", "what", statistics.files_reloaded)
    yield _counter("tandem_files_refused", "Changed files that cannot be used.", "what", statistics.files_refused)
    yield _counter("tandem_dropped", "Traces and impressions that could not be kept.", "what", statistics.num_dropped)


def _of_writes(statistics: Statistics) -> Iterator[Metric]:
    yield _counter(
        "tandem_writes",
        "RecordEvents, UpsertItems and DeleteItems calls by gRPC status.",
        "code",
        statistics.write_calls_by_code,
    )
    yield _histogram("tandem_write_seconds", "Time of whole calls that write.", {"": statistics.write_call_seconds})
    yield _counter(
        "tandem_events_appended", "Entries that are durable in a stream, by type.", "type", statistics.events_appended
    )
    yield _counter(
        "tandem_writes_refused",
        "Calls whose entries were not appended, by reason.",
        "reason",
        statistics.writes_refused,
    )
    yield _histogram(
        "tandem_append_seconds", "Time until a call's entries were durable.", {"": statistics.append_seconds}
    )
    backlog = GaugeMetricFamily("tandem_stream_backlog", "Entries in a stream.", labels=("stream",))
    for stream, num_entries in statistics.stream_backlog.items():
        backlog.add_metric((stream,), num_entries)
    yield backlog


def _of_live_catalogue(statistics: Statistics) -> Iterator[Metric]:
    """Of the states the worst worker's: they differ for no longer than it takes to follow."""
    state = statistics.live_catalogue_state
    for name, documentation in _LIVE_CATALOGUE.items():
        yield GaugeMetricFamily(f"tandem_live_{name}", documentation, state.get(name, 0.0))
    yield _histogram(
        "tandem_live_lag_seconds", "From a change of the catalogue to its effect.", {"": statistics.live_lag_seconds}
    )


def _breakers(statistics: Statistics) -> Metric:
    """The worst state that any worker's breaker is in."""
    family = GaugeMetricFamily(
        "tandem_breaker_state", "1 for the state of each circuit breaker.", labels=("breaker", "state")
    )
    for name, current in statistics.breakers.items():
        for state in BreakerState:
            family.add_metric((name, state), float(current == state))
    return family


def _of_workers(workers: Sequence[WorkerView]) -> Iterator[Metric]:
    restarts = CounterMetricFamily("tandem_worker_restarts", "Workers started in place of one that ended.")
    restarts.add_metric((), sum(view.restarts for view in workers))
    yield restarts
    label = ("worker",)
    up = GaugeMetricFamily("tandem_worker_up", "Whether a worker answers.", labels=label)
    memory = GaugeMetricFamily("tandem_worker_resident_memory_bytes", "Memory, shared pages in full.", labels=label)
    cpu = CounterMetricFamily("tandem_worker_cpu_seconds", "Processor time of the process now running.", labels=label)
    threads = GaugeMetricFamily("tandem_worker_threads", "Threads.", labels=label)
    fds = GaugeMetricFamily("tandem_worker_open_fds", "Open file descriptors.", labels=label)
    for view in workers:
        worker = (str(view.worker),)
        up.add_metric(worker, view.up)
        if view.usage is not None:
            memory.add_metric(worker, view.usage.resident_memory_bytes)
            cpu.add_metric(worker, view.usage.cpu_seconds)
            threads.add_metric(worker, view.usage.num_threads)
            fds.add_metric(worker, view.usage.open_fds)
    yield from (up, memory, cpu, threads, fds)


def _of_bundle(view: ServerView) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "tandem_model_info", "The model that serves.", labels=("model_version", "variant", "registry_version")
    )
    window = GaugeMetricFamily("tandem_swap_window_seconds", "First to last worker's switch at the newest swap.")
    recall = GaugeMetricFamily("tandem_index_recall", "Recall of the serving index at its nprobe, as checked here.")
    overlap = GaugeMetricFamily(
        "tandem_bundle_overlap_with_previous", "Share of recommendations that the bundle before made too."
    )
    if view.serving is not None:
        version, report = view.serving.version, view.serving.report
        info.add_metric((report.model_version, view.serving.variant, version.number), 1)
        recall.add_metric((), report.recall_at_nprobe)
        if report.overlap_with_previous is not None:
            overlap.add_metric((), report.overlap_with_previous)
    if view.swap_window_seconds is not None:
        window.add_metric((), view.swap_window_seconds)
    yield from (info, window, recall, overlap)


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


def _counter(name: str, documentation: str, label: str, counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=(label,))
    for value, count in counts.items():
        family.add_metric((str(value),), count)
    return family


def _gauge(name: str, documentation: str, label: str, values: Mapping[str, bool]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


def _histogram(name: str, documentation: str, histograms: dict[str, Histogram], label: str = "") -> Metric:
    family = HistogramMetricFamily(name, documentation, labels=(label,) if label else ())
    for value, histogram in histograms.items():
        cumulative = list(accumulate(histogram.counts))
        buckets = list(zip([*map(str, histogram.bounds), "+Inf"], cumulative, strict=True))
        family.add_metric((value,) if label else (), buckets, histogram.total)
    return family

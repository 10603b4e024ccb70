"""Prometheus metrics and health of `feature_sync run`, on one port. The only module that imports prometheus_client.

`/metrics` is for Prometheus; `/healthz` answers 200 while every part of the program is at work, 503 once one has ended.
A store that is away is no reason to be restarted, so it shows in `tandem_sync_up` alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)

from feature_sync.core.errors import PortUnavailable, Unavailable
from feature_sync.core.lag import Lag

_BATCH_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

_log = structlog.get_logger(__name__)


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.registry = registry
        self.applied = Counter("tandem_sync_applied", "Entries applied.", ["stream", "type"], registry=registry)
        self.duplicates = Counter(
            "tandem_sync_duplicates", "Entries whose id was applied before.", ["stream"], registry=registry
        )
        self.dead = Counter("tandem_sync_dead_letters", "Entries set aside.", ["stream"], registry=registry)
        self.conflicts = Counter(
            "tandem_sync_conflicts", "Batches begun anew because another wrote.", ["stream"], registry=registry
        )
        self.batch_seconds = Histogram(
            "tandem_sync_batch_seconds", "Time to apply a batch.", ["stream"], buckets=_BATCH_SECONDS, registry=registry
        )
        self.lag_entries = Gauge("tandem_sync_lag_entries", "Entries not applied yet.", ["stream"], registry=registry)
        self.lag_seconds = Gauge(
            "tandem_sync_lag_seconds", "Age of the oldest entry not applied yet.", ["stream"], registry=registry
        )
        self.up = Gauge("tandem_sync_up", "1 while the stream and the store answer.", ["stream"], registry=registry)
        self.archived = Counter(
            "tandem_sync_archived", "Entries written to Parquet files.", ["stream"], registry=registry
        )
        self.archive_lag_seconds = Gauge(
            "tandem_sync_archive_lag_seconds",
            "Age of the oldest entry in no file yet.",
            ["stream"],
            registry=registry,
        )
        self.item_vectors = Counter("tandem_sync_item_vectors", "Vectors of changed items made.", registry=registry)
        self.item_vector_seconds = Counter(
            "tandem_sync_item_vector_seconds", "Time spent on vectors of changed items.", registry=registry
        )
        self.item_vector_failures = Counter(
            "tandem_sync_item_vector_failures", "Bundles whose item vectors cannot be made.", registry=registry
        )
        self.vectors_refreshed = Counter(
            "tandem_sync_vectors_refreshed", "User vectors computed after events.", registry=registry
        )

    def of_stream(self, stream: str) -> StreamMetrics:
        """The metrics of one stream's consumer."""
        return StreamMetrics(self, stream)

    def of_archive(self, stream: str) -> ArchiveMetrics:
        """The metrics of one stream's archive."""
        return ArchiveMetrics(self, stream)


class StreamMetrics:
    """The metrics of one stream's consumer; whether it is up is logged too, once when that changes."""

    def __init__(self, metrics: Metrics, stream: str) -> None:
        self._stream = stream
        self._applied = metrics.applied
        self._up = metrics.up.labels(stream)
        self._is_up: bool | None = None
        self._lag_entries = metrics.lag_entries.labels(stream)
        self._lag_seconds = metrics.lag_seconds.labels(stream)
        self.duplicates = metrics.duplicates.labels(stream)
        self.dead = metrics.dead.labels(stream)
        self.conflicts = metrics.conflicts.labels(stream)
        self.batch_seconds = metrics.batch_seconds.labels(stream)

    def count_applied(self, entry_type: str, number: int) -> None:
        """Counts applied entries of one type."""
        self._applied.labels(self._stream, entry_type).inc(number)

    def report_lag(self, lag: Lag) -> None:
        """Shows how far behind the consumer is."""
        self._lag_entries.set(lag.num_entries)
        self._lag_seconds.set(lag.oldest_seconds)

    def report_away(self, error: Unavailable) -> None:
        """Something is away."""
        if self._is_up is not False:
            self._is_up = False
            self._up.set(0)
            _log.warning("waiting", stream=self._stream, error=str(error), effect="entries wait in the stream")

    def report_back(self) -> None:
        """Everything answers."""
        if self._is_up is not True:
            self._is_up = True
            self._up.set(1)
            _log.info("consuming", stream=self._stream)


class ArchiveMetrics:
    """The metrics of one stream's archive."""

    def __init__(self, metrics: Metrics, stream: str) -> None:
        self.archived = metrics.archived.labels(stream)
        self._lag_seconds = metrics.archive_lag_seconds.labels(stream)

    def report_waiting(self, oldest_seconds: float) -> None:
        """Shows for how long the oldest entry has waited for its file; 0 where none waits."""
        self._lag_seconds.set(max(0.0, oldest_seconds))


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Scrapes are not logged."""


class MetricsServer:
    """Answers on one port in a thread of its own."""

    def __init__(self, metrics: Metrics, *, host: str, port: int, is_healthy: Callable[[], bool]) -> None:
        """Listens. Raises PortUnavailable."""
        show: Callable[..., Iterable[bytes]] = make_wsgi_app(metrics.registry)

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/healthz":
                return show(environ, start_response)
            healthy = is_healthy()
            start_response("200 OK" if healthy else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"ok\n" if healthy else b"a part has ended\n"]

        try:
            self._server = make_server(host, port, answer, handler_class=_QuietHandler)
        except OSError as error:
            raise PortUnavailable(f"TANDEM_SYNC_METRICS_PORT: cannot listen on {host}:{port}: {error}") from error
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()

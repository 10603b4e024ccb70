"""Prometheus metrics and health of `feature_sync run`, on one port. The only module that imports prometheus_client.

`/metrics` is for Prometheus; `/healthz` answers 200 while every part of the program is at work, 503 once one has ended
or is stuck, with its name.
A store that does not answer is no reason for a restart, so only `tandem_sync_up` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final

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
from tandem.ops import metrics_server
from tandem.ops.metrics import Kind, Metric, declared
from tandem.ops.metrics_access import AccessFiles

_BATCH_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

_log = structlog.get_logger(__name__)


class Metrics:
    """All metrics of one process, each declared once, in the order of the page."""

    applied: Annotated[
        Counter,
        Metric(
            "tandem_sync_applied",
            "Entries applied.",
            Kind.COUNTER,
            labels=("stream", "type"),
            unit="entries",
            investigate_when="It stands still while `tandem_sync_lag_entries` is above 0.",
        ),
    ]
    duplicates: Annotated[
        Counter,
        Metric(
            "tandem_sync_duplicates",
            "Entries whose id was applied before.",
            Kind.COUNTER,
            labels=("stream",),
            unit="entries",
            investigate_when="It grows as fast as `tandem_sync_applied_total`: a sender repeats what it sent before.",
        ),
    ]
    left_out: Annotated[
        Counter,
        Metric(
            "tandem_sync_left_out",
            "Entries left out because their user was deleted.",
            Kind.COUNTER,
            labels=("stream",),
            unit="entries",
            investigate_when="It keeps growing: a sender still holds events of before a deletion.",
        ),
    ]
    dead: Annotated[
        Counter,
        Metric(
            "tandem_sync_dead_letters",
            "Entries set aside.",
            Kind.COUNTER,
            labels=("stream",),
            unit="entries",
            investigate_when="It is above 0: `python -m feature_sync dead-letters list` shows the entries and the "
            "reasons.",
        ),
    ]
    conflicts: Annotated[
        Counter,
        Metric(
            "tandem_sync_conflicts",
            "Batches begun anew because another wrote.",
            Kind.COUNTER,
            labels=("stream",),
            unit="batches",
            investigate_when="It grows as fast as batches do: two processes apply the same users' events.",
        ),
    ]
    batch_seconds: Annotated[
        Histogram,
        Metric(
            "tandem_sync_batch_seconds",
            "Time to apply a batch.",
            Kind.HISTOGRAM,
            labels=("stream",),
            buckets=_BATCH_SECONDS,
            unit="seconds",
            investigate_when="It grows: the store is slow.",
        ),
    ]
    lag_entries: Annotated[
        Gauge,
        Metric(
            "tandem_sync_lag_entries",
            "Entries not applied yet.",
            Kind.GAUGE,
            labels=("stream",),
            unit="entries",
            investigate_when="It does not return to about 0.",
        ),
    ]
    lag_seconds: Annotated[
        Gauge,
        Metric(
            "tandem_sync_lag_seconds",
            "Age of the oldest entry not applied yet.",
            Kind.GAUGE,
            labels=("stream",),
            unit="seconds",
            investigate_when="It grows: answers do not know what users did meanwhile.",
        ),
    ]
    up: Annotated[
        Gauge,
        Metric(
            "tandem_sync_up",
            "1 while the stream and the store answer.",
            Kind.GAUGE,
            labels=("stream",),
            unit="0 or 1",
            investigate_when="It is 0: entries wait in the stream.",
        ),
    ]
    part_silent: Annotated[
        Gauge,
        Metric(
            "tandem_sync_part_silent_seconds",
            "Time for which a part has made no progress.",
            Kind.GAUGE,
            labels=("part",),
            unit="seconds",
            investigate_when="It is above `TANDEM_STUCK_SECONDS`: the part is stuck, `/healthz` is 503, and the log "
            "has `part_stuck`.",
        ),
    ]
    store_problem: Annotated[
        Gauge,
        Metric(
            "tandem_sync_store_problem",
            "1 while the store has this problem: `empty`, `evicts` or `replica`.",
            Kind.GAUGE,
            labels=("kind",),
            unit="0 or 1",
            investigate_when="It is 1: the log says what to do. After `empty`, `python -m feature_sync rebuild`.",
        ),
    ]
    archived: Annotated[
        Counter,
        Metric(
            "tandem_sync_archived",
            "Entries written to Parquet files.",
            Kind.COUNTER,
            labels=("stream",),
            unit="entries",
            investigate_when="It stands still while `tandem_sync_applied_total` grows: the next training lacks the "
            "entries.",
        ),
    ]
    archive_lag_seconds: Annotated[
        Gauge,
        Metric(
            "tandem_sync_archive_lag_seconds",
            "Age of the oldest entry in no file yet.",
            Kind.GAUGE,
            labels=("stream",),
            unit="seconds",
            investigate_when="It stays above `TANDEM_ARCHIVE_SECONDS`.",
        ),
    ]
    item_vectors: Annotated[
        Counter,
        Metric(
            "tandem_sync_item_vectors",
            "Vectors of changed items made.",
            Kind.COUNTER,
            unit="vectors",
            investigate_when="It stands still although items changed: see `tandem_live_waiting` of the server.",
        ),
    ]
    item_vector_seconds: Annotated[
        Counter,
        Metric(
            "tandem_sync_item_vector_seconds",
            "Time spent on vectors of changed items.",
            Kind.COUNTER,
            unit="seconds",
            investigate_when="Its rate nears 1: vectors take all the time of the thread that makes them.",
        ),
    ]
    item_vector_failures: Annotated[
        Counter,
        Metric(
            "tandem_sync_item_vector_failures",
            "Bundles whose item vectors cannot be made.",
            Kind.COUNTER,
            unit="bundles",
            investigate_when="It is above 0: that bundle recommends no new items; the log has `item_vectors_stopped`.",
        ),
    ]
    vectors_refreshed: Annotated[
        Counter,
        Metric(
            "tandem_sync_vectors_refreshed",
            "User vectors computed after events.",
            Kind.COUNTER,
            unit="vectors",
        ),
    ]

    def __init__(self) -> None:
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.registry = registry
        for attribute, metric in declared(type(self)).items():
            setattr(self, attribute, _made(metric, registry))

    def report_silence(self, seconds_by_part: Mapping[str, float]) -> None:
        """Shows for how long each part has made no progress."""
        for part, seconds in seconds_by_part.items():
            self.part_silent.labels(part).set(seconds)

    def of_stream(self, stream: str) -> StreamMetrics:
        """The metrics of one stream's consumer."""
        return StreamMetrics(self, stream)

    def of_archive(self, stream: str) -> ArchiveMetrics:
        """The metrics of one stream's archive."""
        return ArchiveMetrics(self, stream)


def _made(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind is Kind.HISTOGRAM:
        return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
    made = Counter if metric.kind is Kind.COUNTER else Gauge
    return made(metric.name, metric.help, metric.labels, registry=registry)


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
        self.left_out = metrics.left_out.labels(stream)
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
        """Notes that a dependency does not answer."""
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


class MetricsServer:
    """`/metrics` and `/healthz` on one port, in threads of their own."""

    def __init__(
        self, metrics: Metrics, *, host: str, port: int, files: AccessFiles, problem: Callable[[], str]
    ) -> None:
        """Begins to answer. `problem` says why the program is not healthy; empty while it is. Raises
        PortUnavailable."""
        show: Callable[..., Iterable[bytes]] = make_wsgi_app(metrics.registry)

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/healthz":
                return show(environ, start_response)
            found = problem()
            start_response("503 Service Unavailable" if found else "200 OK", [("Content-Type", "text/plain")])
            return [f"{found or 'ok'}\n".encode()]

        try:
            self._server = metrics_server.MetricsServer(answer, host=host, port=port, files=files)
        except OSError as error:
            raise PortUnavailable(f"TANDEM_SYNC_METRICS_PORT: cannot listen on {host}:{port}: {error}") from error
        self.port = self._server.port

    def close(self) -> None:
        """Stops answering and frees the port."""
        self._server.close()

"""`feature_sync run`: all parts that keep the online store up to date, as threads of one process.

Read `run` downwards: it builds the parts, starts each in a thread of its own, and waits until it is told to stop, or
until a part ends by itself, which is a failure and ends the program. A store or a broker that does not answer is not a
failure: the parts wait for it, and report that they do. A part that reports nothing is stuck, which health shows.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Final

import structlog

from feature_sync.archive.archiver import Archiver
from feature_sync.bundles.live_bundles import LiveBundles
from feature_sync.core.errors import StoreError
from feature_sync.core.settings import Settings
from feature_sync.events.applier_factory import event_applier
from feature_sync.events.event_rule import ServedEventRule
from feature_sync.events.impression_applier import ImpressionApplier
from feature_sync.events.user_vectors import UserVectorRefresher
from feature_sync.items.applier import ItemChangeApplier
from feature_sync.items.maker import VectorMaker
from feature_sync.items.numbering import Numbering
from feature_sync.prepared.parts import Part, Threads
from feature_sync.service.store_watch import StoreWatch
from feature_sync.store.connection import StoreConnection, require_usable
from feature_sync.store.served_models import further_models
from feature_sync.stream.consumer import Consumer
from feature_sync.stream.dead_letters import DeadLetters
from feature_sync.stream.source_factory import is_kafka, open_source
from feature_sync.telemetry.metrics import Metrics, MetricsServer
from tandem.contract.streams import ALL_STREAMS, EVENTS, IMPRESSIONS, ITEM_CHANGES
from tandem.ops.metrics_access import AccessFiles

_GRACE_SECONDS: Final = 20.0
"""Time in which all parts may finish their current work."""
_WATCH_SECONDS: Final = 1.0
"""Time between two looks for parts that are stuck."""

_log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Keeps the online store up to date until SIGTERM or Ctrl-C. Raises SettingsError for a store that can never be
    used, and FeatureSyncError if a part fails."""
    stopping = threading.Event()
    taken: list[str] = []
    _take_signals(stopping, taken)
    require_usable("TANDEM_STORE_URL", settings.store_url)
    if settings.events_url and not is_kafka(settings.events_url):
        require_usable("TANDEM_EVENTS_URL", settings.events_url)
    metrics = Metrics()
    items, live_bundles = _items(settings, metrics)
    parts = {**_events(settings, metrics, live_bundles), **items, "impressions": _impressions(settings, metrics)}
    store_watch = StoreWatch(StoreConnection(settings.store_url), metrics, settings.data_dir)
    with contextlib.suppress(StoreError):  # before any event is applied
        store_watch.keep_register()
    parts["store_watch"] = store_watch
    if settings.archive:
        parts |= {f"archive of {stream}": _archive(settings, metrics, stream) for stream in ALL_STREAMS}
    threads = Threads(parts, stuck_seconds=settings.stuck_seconds, on_end=stopping.set)
    server = MetricsServer(
        metrics,
        host=settings.host,
        port=settings.sync_metrics_port,
        files=AccessFiles.of(settings),
        problem=threads.problem,
    )
    _log.info("started", parts=sorted(parts), metrics_port=server.port)
    threads.start()
    while not stopping.wait(_WATCH_SECONDS):
        threads.log_stuck()
        metrics.report_silence(threads.silent_seconds())
    _log.info("stopping", reason=", ".join(taken) or "a part has ended", grace_seconds=_GRACE_SECONDS)
    threads.stop(_GRACE_SECONDS)
    server.close()
    _log.info("stopped")
    threads.raise_failure()


def _take_signals(stopping: threading.Event, taken: list[str]) -> None:
    """Makes SIGTERM and Ctrl-C set `stopping`, and add their names to `taken`. No other signal ends the program."""

    def stop(number: int, _: object) -> None:
        # Without a log line here: the handler may interrupt another line of this thread.
        taken.append(signal.Signals(number).name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)


def _events(settings: Settings, metrics: Metrics, live_bundles: LiveBundles) -> dict[str, Part]:
    store = StoreConnection(settings.store_url)
    stream_metrics = metrics.of_stream(EVENTS)
    vectors = UserVectorRefresher(
        StoreConnection(settings.store_url),
        served_bundles=live_bundles.served,
        is_behind=lambda: events.is_behind,
        ttl_seconds=settings.vector_ttl_seconds,
        metrics=metrics,
    )
    events = Consumer(
        open_source(settings, EVENTS),
        event_applier(
            settings,
            store,
            stream_metrics,
            event_rule=ServedEventRule(settings, live_bundles),
            on_changed_users=vectors.add,
            live_bundles=live_bundles.current,
        ),
        dead_letters=DeadLetters(store, EVENTS, max_entries=settings.dead_letters),
        metrics=stream_metrics,
        batch_entries=settings.batch_entries,
    )
    return {"events": events, "user_vectors": vectors}


def _items(settings: Settings, metrics: Metrics) -> tuple[dict[str, Part], LiveBundles]:
    names = StoreConnection(settings.store_url)
    bundles = LiveBundles(settings, on_change=lambda: vectors.wake(), further=lambda: further_models(settings, names))
    vectors = VectorMaker(settings, StoreConnection(settings.store_url), live_bundles=bundles.current, metrics=metrics)
    store = StoreConnection(settings.store_url)
    stream_metrics = metrics.of_stream(ITEM_CHANGES)
    changes = Consumer(
        open_source(settings, ITEM_CHANGES),
        ItemChangeApplier(
            store,
            numbering=Numbering(settings.data_dir / ITEM_CHANGES, bundles.merged_sequence),
            metrics=stream_metrics,
            on_applied=vectors.wake,
        ),
        dead_letters=DeadLetters(store, ITEM_CHANGES, max_entries=settings.dead_letters),
        metrics=stream_metrics,
        batch_entries=settings.batch_entries,
    )
    return {"item_changes": changes, "live_bundles": bundles, "item_vectors": vectors}, bundles


def _impressions(settings: Settings, metrics: Metrics) -> Part:
    store = StoreConnection(settings.store_url)
    stream_metrics = metrics.of_stream(IMPRESSIONS)
    return Consumer(
        open_source(settings, IMPRESSIONS),
        ImpressionApplier(store, metrics=stream_metrics),
        dead_letters=DeadLetters(store, IMPRESSIONS, max_entries=settings.dead_letters),
        metrics=stream_metrics,
        batch_entries=settings.batch_entries,
    )


def _archive(settings: Settings, metrics: Metrics, stream: str) -> Archiver:
    return Archiver(
        StoreConnection(settings.store_url),
        stream,
        settings.data_dir / stream,
        flush_rows=settings.archive_rows,
        flush_seconds=settings.archive_seconds,
        metrics=metrics.of_archive(stream),
    )

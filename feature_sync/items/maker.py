"""The thread that makes vectors of changed items for every live bundle, beside the threads that apply events.

It has a connection of its own. Encoding a text takes milliseconds, in code that releases the interpreter's lock, so
events do not wait for it. Changes of the catalogue are applied before their vectors exist.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from feature_sync.core.errors import StoreAway
from feature_sync.core.progress import report_progress
from feature_sync.core.settings import Settings
from feature_sync.items.feed import prune
from feature_sync.items.vectors import LiveVectors
from feature_sync.store.connection import StoreConnection
from feature_sync.telemetry.metrics import Metrics
from feature_sync.towers.item_tower import ItemTower
from feature_sync.towers.texts import TextEmbeddings
from tandem.contract.bundle import Bundle

_LOOK_SECONDS: Final = 0.5
"""Interval between checks without being woken: other processes apply changes too."""
_OPEN_SECONDS: Final = 600.0
"""Longest time for which the loading of a text encoder, from a slow disk, counts as progress."""
_CARE_SECONDS: Final = 600.0
"""Interval at which old changes are pruned and the vectors' time to live is renewed."""

_log = structlog.get_logger(__name__)


class VectorMaker:
    """Makes vectors of changed items. `step` and `run` are for one thread, `wake` and `stop` for any thread."""

    def __init__(
        self,
        settings: Settings,
        connection: StoreConnection,
        *,
        live_bundles: Callable[[], Sequence[Bundle]],
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._live_bundles = live_bundles
        self._metrics = metrics
        self._texts = TextEmbeddings(threads=settings.text_threads)
        self._vectors: dict[str, LiveVectors | None] = {}
        """By model version; None if the vectors cannot be made here."""
        self._next_care_at = 0.0
        self._wake = threading.Event()
        self._stop = threading.Event()

    def wake(self) -> None:
        """Notes that items or the live bundles have changed."""
        self._wake.set()

    def stop(self) -> None:
        """Makes `run` end after the current page."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Makes vectors until it is stopped. Waits while the store does not answer."""
        is_away = False
        while not self._stop.is_set():
            report_progress()
            self._wake.clear()
            try:
                self.step()
                is_away = False
            except StoreAway as error:
                if not is_away:
                    _log.warning("vectors_wait", error=str(error))
                is_away = True
            self._wake.wait(_LOOK_SECONDS)
        self._connection.close()

    def step(self) -> None:
        """Brings the vectors of every live bundle up to date, a page of each in turn. Raises StoreAway."""
        bundles = self._live_bundles()
        live = {bundle.manifest.model_version: bundle for bundle in bundles}
        self._vectors = {version: vectors for version, vectors in self._vectors.items() if version in live}
        for version in live.keys() - self._vectors.keys():
            report_progress(may_take_seconds=_OPEN_SECONDS)
            self._vectors[version] = self._opened(live[version])
            report_progress()
        behind = list(live)
        while behind and not self._stop.is_set():
            behind = [version for version in behind if self._updated(version)]
        if time.monotonic() >= self._next_care_at:
            self._care(bundles)
            self._next_care_at = time.monotonic() + _CARE_SECONDS

    def _opened(self, bundle: Bundle) -> LiveVectors | None:
        try:
            # Loaded now, because the first item would otherwise wait for seconds.
            self._texts.open(bundle.manifest.feature_schema)
            tower = ItemTower(bundle, self._texts)
        except Exception as error:  # whatever a library meets in a bundle: it must not end the program
            self._give_up(bundle.manifest.model_version, error)
            return None
        vectors = LiveVectors(self._connection, tower, ttl_seconds=self._settings.vector_ttl_seconds)
        vectors.begin()
        return vectors

    def _updated(self, version: str) -> bool:
        """Whether a page was processed under a version, so that further pages may follow."""
        vectors = self._vectors[version]
        if vectors is None:
            return False
        started = time.perf_counter()
        try:
            num_vectors = vectors.update()
        except StoreAway:
            raise
        except Exception as error:  # as above
            self._give_up(version, error)
            return False
        if num_vectors is None:
            return False
        report_progress()
        self._metrics.item_vectors.inc(num_vectors)
        self._metrics.item_vector_seconds.inc(time.perf_counter() - started)
        return True

    def _give_up(self, version: str, error: Exception) -> None:
        """A version that fails once fails again, so it is dropped; vectors under the other bundles continue."""
        self._vectors[version] = None
        self._metrics.item_vector_failures.inc()
        _log.error("item_vectors_stopped", model_version=version, error=repr(error), effect="new items wait")

    def _care(self, bundles: Sequence[Bundle]) -> None:
        for vectors in self._vectors.values():
            if vectors is not None:
                vectors.keep()
        if not bundles:
            return
        retention_seconds = self._settings.item_change_retention_seconds
        num_pruned = prune(
            self._connection,
            merged_sequence=min(bundle.manifest.catalogue_sequence for bundle in bundles),
            changed_before=int((time.time() - retention_seconds) * 1e6),
        )
        if num_pruned:
            _log.info("item_changes_pruned", num_items=num_pruned)

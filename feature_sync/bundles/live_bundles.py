"""The live bundles, which servers serve or may serve: those that the registry's aliases champion and challenger name.

A bundle stays live for an hour after its alias has moved: servers switch one after another, a server that refuses the
new bundle keeps the old one, and a rollback usually comes soon.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from feature_sync.bundles.registry import BUNDLE_CACHE, fetch_bundle, find_versions, open_registry
from feature_sync.core.errors import RegistryError
from feature_sync.core.settings import Settings
from tandem.contract import names
from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.errors import BundleError
from tandem.ops.model_registry import RegisteredVersion

GRACE_SECONDS: Final = 3600.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Named:
    bundle: Bundle
    seen_at: float
    """When an alias last named the bundle, by time.monotonic."""


class LiveBundles:
    """Follows the live bundles. `poll` and `run` are for one thread, the other methods for any thread."""

    def __init__(
        self, settings: Settings, *, on_change: Callable[[], None], grace_seconds: float = GRACE_SECONDS
    ) -> None:
        """`on_change` is called when the live bundles have changed. If the settings name a bundle folder, only that
        bundle is live."""
        self._settings = settings
        self._registry = open_registry(settings)
        self._on_change = on_change
        self._grace_seconds = grace_seconds
        self._bundles: dict[str, _Named] = {}
        self._refused: set[str] = set()
        self._problem = ""
        self._has_looked = False
        self._stop = threading.Event()

    def current(self) -> tuple[Bundle, ...]:
        """The live bundles, the champion first; empty before one is known."""
        return tuple(named.bundle for named in self._bundles.values())

    def merged_sequence(self) -> int | None:
        """The highest sequence of a catalogue change that a live bundle has merged; 0 without bundles, None before the
        first poll."""
        if not self._has_looked:
            return None
        return max((bundle.manifest.catalogue_sequence for bundle in self.current()), default=0)

    def run(self) -> None:
        """Follows the registry until it is stopped."""
        while not self._stop.is_set():
            self.poll()
            self._stop.wait(self._settings.registry_poll_seconds)

    def stop(self) -> None:
        """Makes `run` end. Callable from any thread."""
        self._stop.set()

    def poll(self) -> None:
        """Polls once. If the registry or a bundle cannot be read, this is logged, and the known bundles stay."""
        try:
            self._look()
        finally:
            self._has_looked = True

    def _look(self) -> None:
        try:
            found = self._folder() if self._settings.bundle_path else self._registered()
        except (RegistryError, BundleError, OSError) as error:
            self._report(str(error))
            return
        self._report("")
        now = time.monotonic()
        lingering = {
            version: named
            for version, named in self._bundles.items()
            if version not in found and now - named.seen_at < self._grace_seconds
        }
        before = set(self._bundles)
        self._bundles = {version: _Named(bundle, now) for version, bundle in found.items()} | lingering
        if set(self._bundles) != before:
            _log.info("live_bundles", model_versions=list(self._bundles))
            self._on_change()

    def _folder(self) -> dict[str, Bundle]:
        known = self.current()
        path = self._settings.bundle_path
        assert path is not None
        bundle = known[0] if known else read_bundle(path)
        return {bundle.manifest.model_version: bundle}

    def _registered(self) -> dict[str, Bundle]:
        versions = find_versions(self._registry, [names.CHAMPION, names.CHALLENGER])
        return {version.model_version: bundle for version in versions if (bundle := self._open(version)) is not None}

    def _open(self, version: RegisteredVersion) -> Bundle | None:
        """The version's bundle; None if it must not be served, which another attempt would not change."""
        known = self._bundles.get(version.model_version)
        if known is not None:
            return known.bundle
        if version.model_version in self._refused:
            return None
        try:
            return fetch_bundle(self._registry, version, self._settings.data_dir / BUNDLE_CACHE)
        except BundleError as error:
            self._refused.add(version.model_version)
            _log.error("bundle_refused", model_version=version.model_version, error=str(error))
            return None

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            if problem:
                _log.warning("registry_unreadable", error=problem, effect="the bundles known so far stay live")

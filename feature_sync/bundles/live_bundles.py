"""The live bundles, which servers serve or may serve: those that the registry's aliases champion and challenger name,
and the further models that servers answer with.

A bundle stays live for an hour after its alias has moved: servers switch one after another, a server that refuses the
new bundle keeps the old one, and a rollback usually comes soon.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from feature_sync.bundles.checked import open_checked
from feature_sync.bundles.registry import (
    BUNDLE_CACHE,
    fetch_bundle,
    find_named,
    live_names,
    open_registry,
    remember_champion,
)
from feature_sync.core.errors import RegistryError, StoreError
from feature_sync.core.progress import report_progress
from feature_sync.core.settings import Settings
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.errors import BundleError, BundleIncompatible
from tandem.ops.model_registry import RegisteredVersion
from tandem.ops.settings_types import split_names
from tandem.ops.storage_errors import storage_error_line

GRACE_SECONDS: Final = 3600.0
_ANSWER_SECONDS: Final = 300.0
"""Longest time for which a registry that does not answer holds up a poll: its client tries each call four times."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Named:
    bundle: Bundle
    seen_at: float
    """When an alias last named the bundle, by time.monotonic."""


class LiveBundles:
    """Follows the live bundles. `poll` and `run` are for one thread, the other methods for any thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        on_change: Callable[[], None],
        further: Callable[[], Sequence[str]] | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """`on_change` is called when the live bundles have changed. `further` returns the names of the further models,
        or raises StoreError; None: those of the settings. If the settings name a bundle folder, only that bundle is
        live."""
        self._settings = settings
        self._registry = open_registry(settings)
        self._names_nothing = False
        self._names_further = further or (lambda: split_names(settings.further_models))
        self._further: Sequence[str] = split_names(settings.further_models)
        self._further_versions: tuple[str, ...] = ()
        self._missing: set[str] = set()
        self._on_change = on_change
        self._grace_seconds = grace_seconds
        self._bundles: dict[str, _Named] = {}
        self._champion = ""
        self._refused: set[RegisteredVersion] = set()
        self._problem = ""
        self._has_looked = False
        self._stop = threading.Event()

    def current(self) -> tuple[Bundle, ...]:
        """The live bundles, the champion first; empty before one is known."""
        return tuple(named.bundle for named in self._bundles.values())

    def champion(self) -> Bundle | None:
        """The bundle of the champion: of the alias's version, or, while that cannot be opened, of the one before. None:
        none could be opened since the start."""
        named = self._bundles.get(self._champion)
        return None if named is None else named.bundle

    def served(self) -> tuple[Bundle, ...]:
        """The live bundles that users are answered with: the first, and the further models."""
        bundles = self._bundles
        further = (version for version in self._further_versions if version in bundles)
        return tuple(bundles[version].bundle for version in dict.fromkeys((*list(bundles)[:1], *further)))

    @property
    def has_looked(self) -> bool:
        """Whether the first poll is over, however it ended."""
        return self._has_looked

    def merged_sequence(self) -> int | None:
        """The highest sequence of a catalogue change that a live bundle has merged; 0 without bundles, None before the
        first poll."""
        if not self._has_looked:
            return None
        return max((bundle.manifest.catalogue_sequence for bundle in self.current()), default=0)

    def run(self) -> None:
        """Follows the registry until it is stopped."""
        while not self._stop.is_set():
            report_progress(may_take_seconds=_ANSWER_SECONDS)
            self.poll()
            report_progress(may_take_seconds=self._settings.registry_poll_seconds)
            self._stop.wait(self._settings.registry_poll_seconds)

    def stop(self) -> None:
        """Makes `run` end. Callable from any thread."""
        self._stop.set()

    def poll(self) -> None:
        """Polls once. If the registry or a bundle cannot be read, this is logged, and the known bundles stay."""
        try:
            self._look()
        except Exception as error:  # nothing that a registry or a bundle holds may end the program
            self._report(f"{type(error).__name__}: {error}" if not isinstance(error, RegistryError) else str(error))
        finally:
            self._has_looked = True

    def _look(self) -> None:
        problems: list[str] = []
        found = self._folder(problems) if self._settings.bundle_path else self._registered(problems)
        self._report("; ".join(problems))
        now = time.monotonic()
        lingering = {
            version: named
            for version, named in self._bundles.items()
            if version not in found
            # Servers answer with the champion until another one can be opened.
            and (version == self._champion or now - named.seen_at < self._grace_seconds)
        }
        before = set(self._bundles)
        bundles = {version: _Named(bundle, now) for version, bundle in found.items()} | lingering
        first = {self._champion: bundles[self._champion]} if self._champion in bundles else {}
        self._bundles = first | bundles
        if set(self._bundles) != before:
            _log.info("live_bundles", model_versions=list(self._bundles))
            self._on_change()

    def _folder(self, problems: list[str]) -> dict[str, Bundle]:
        known = self.current()
        path = self._settings.bundle_path
        assert path is not None
        try:
            bundle = known[0] if known else open_checked(path, self._settings, stop=self._stop)
        except BundleError as error:
            problems.append(str(error))
            return {}
        self._champion = bundle.manifest.model_version
        return {self._champion: bundle}

    def _registered(self, problems: list[str]) -> dict[str, Bundle]:
        """The bundles that the aliases name, except those that are refused or cannot be read now."""
        found: dict[str, Bundle] = {}
        # A store that is away names nothing: the names known so far stay.
        with suppress(StoreError):
            self._further = self._names_further()
        aliases = live_names(self._further)
        named = find_named(self._registry, aliases)
        if not named and not self._names_nothing:
            _log.warning("alias_has_no_version", model_name=self._settings.model_name, aliases=aliases)
        self._names_nothing = not named
        missing = set(self._further) - named.keys()
        for name in sorted(missing - self._missing) if named else ():
            _log.warning("further_model_has_no_version", model_name=self._settings.model_name, alias=name)
        self._missing = missing
        self._further_versions = tuple(named[name].model_version for name in self._further if name in named)
        for version in named.values():
            try:
                bundle = self._open(version)
            except (RegistryError, OSError) as error:
                problems.append(storage_error_line(error) if isinstance(error, OSError) else str(error))
                continue
            if bundle is not None:
                found[version.model_version] = bundle
        champion = named.get(names.CHAMPION)
        if champion is not None and champion.model_version in found:
            self._champion = champion.model_version
            try:
                remember_champion(self._settings.data_dir / BUNDLE_CACHE, self._champion)
            except OSError as error:
                problems.append(storage_error_line(error))
        return found

    def _open(self, version: RegisteredVersion) -> Bundle | None:
        """The version's bundle; None if it must not be served, which another attempt would not change. Raises
        RegistryError or OSError for a failure that may pass."""
        known = self._bundles.get(version.model_version)
        if known is not None:
            return known.bundle
        if version in self._refused:
            return None
        try:
            return fetch_bundle(
                self._registry,
                version,
                self._settings,
                num_live=len(live_names(self._further)),
                stop=self._stop,
            )
        except (RegistryError, OSError):
            raise
        except Exception as error:  # a BundleError, or whatever else the bundle's maker has found
            self._refused.add(version)
            _log.error(
                "bundle_refused",
                registry_version=version.number,
                model_version=version.model_version,
                reason_kind=_reason_kind(error),
                error=str(error),
            )
            return None

    def _report(self, problem: str) -> None:
        if problem != self._problem and not self._stop.is_set():
            self._problem = problem
            if problem:
                _log.warning("registry_unreadable", error=problem, effect="the bundles known so far stay live")


def _reason_kind(error: Exception) -> str:
    """As the server names it."""
    if isinstance(error, BundleError):
        return "incompatible" if isinstance(error, BundleIncompatible) else "corrupt"
    return "check_failed"

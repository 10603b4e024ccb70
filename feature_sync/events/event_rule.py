"""Which events are choices, and which of several stands for them: the rule of the model, from its bundle's manifest."""

from __future__ import annotations

from dataclasses import replace

import structlog

from feature_sync.bundles.live_bundles import LiveBundles
from feature_sync.bundles.registry import BUNDLE_CACHE, champion_manifest
from feature_sync.core.errors import Unavailable
from feature_sync.core.settings import Settings
from tandem.contract.event_rule import EventRule

_log = structlog.get_logger(__name__)


class ServedEventRule:
    """Knows the rule. Not for several threads."""

    def __init__(self, settings: Settings, bundles: LiveBundles) -> None:
        self._min_rating = settings.event_min_rating
        # A folder is opened soon, and what the cache holds has nothing to do with it.
        self._cache = None if settings.bundle_path else settings.data_dir / BUNDLE_CACHE
        self._bundles = bundles
        self._logged: tuple[EventRule, str] | None = None

    def current(self) -> EventRule:
        """The champion's rule, or, while the registry cannot be read, that of the last champion on this machine.
        TANDEM_EVENT_MIN_RATING overrides its least rating.

        Raises Unavailable until the registry was looked at for the first time, if there was no champion.
        """
        rule, source = self._rule()
        if self._min_rating is not None:
            rule = replace(rule, min_rating=self._min_rating)
        if (rule, source) != self._logged:
            self._logged = rule, source
            _log.info(
                "event_rule",
                min_rating=rule.min_rating,
                min_rating_source=source if self._min_rating is None else "TANDEM_EVENT_MIN_RATING",
                event_weights=dict(rule.event_weights),
                source=source,
            )
        return rule

    def _rule(self) -> tuple[EventRule, str]:
        """(the rule, what says so)."""
        champion = self._bundles.champion()
        manifest = champion.manifest if champion else champion_manifest(self._cache) if self._cache else None
        if manifest is not None:
            return EventRule.of(manifest), manifest.model_version
        if not self._bundles.has_looked:
            raise Unavailable("the registry was not read yet: which events are choices is unknown")
        return EventRule(), "no bundle is known"

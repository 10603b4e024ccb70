"""The least rating that counts as a choice: the rule by which the model was trained, from its bundle's manifest."""

from __future__ import annotations

import structlog

from feature_sync.bundles.live_bundles import LiveBundles
from feature_sync.bundles.registry import BUNDLE_CACHE, newest_manifest
from feature_sync.core.errors import Unavailable
from feature_sync.core.settings import Settings

_log = structlog.get_logger(__name__)


class RatingRule:
    """Knows the least rating. Not for several threads."""

    def __init__(self, settings: Settings, bundles: LiveBundles) -> None:
        self._override = settings.event_min_rating
        # A folder is opened soon, and what the cache holds has nothing to do with it.
        self._cache = None if settings.bundle_path else settings.data_dir / BUNDLE_CACHE
        self._bundles = bundles
        self._logged: tuple[float | None, str] | None = None

    def min_rating(self) -> float | None:
        """Ratings below it are seen, and no choices; None: every rating is a choice.

        TANDEM_EVENT_MIN_RATING, or else the champion's, or, while the registry cannot be read, that of the bundle used
        last on this machine. Raises Unavailable until the registry was looked at for the first time, if there is no
        such bundle.
        """
        rule = self._rule()
        if rule != self._logged:
            self._logged = rule
            _log.info("rating_rule", min_rating=rule[0], source=rule[1])
        return rule[0]

    def _rule(self) -> tuple[float | None, str]:
        """(the least rating, what says so)."""
        if self._override is not None:
            return self._override, "TANDEM_EVENT_MIN_RATING"
        bundles = self._bundles.current()
        manifest = bundles[0].manifest if bundles else newest_manifest(self._cache) if self._cache else None
        if manifest is not None:
            return manifest.min_rating, manifest.model_version
        if not self._bundles.has_looked:
            raise Unavailable("the registry was not read yet: which ratings are choices is unknown")
        return None, "no bundle is known"

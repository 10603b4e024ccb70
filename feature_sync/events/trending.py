"""Trending items: event weights that decay exponentially, by forward decay (Cormode et al., ICDE 2009).

An event adds weight * exp((t - L) / tau) to its item's score, where L is a landmark in the past. All scores of one
landmark decay equally, so the stored sums already have the right order, no score needs ageing, and an addition is one
ZINCRBY, which commutes and fits into the transaction that applies the event.

To keep the exponent within the range of a double, a new sorted set with a new landmark begins every 100 tau. The
published list combines the two newest sets.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from feature_sync.core.settings import Settings
from feature_sync.store.connection import Command, StoreConnection
from tandem.contract.store import KEY_PREFIX, TrendingItems, trending_key
from tandem.contract.streams import Event
from tandem.contract.vocabulary import id_key

_EPOCH_TAUS: Final = 100
_MIN_SHARE: Final = 1e-6
"""An old event whose remaining share of weight is less than this adds nothing."""
_KEPT_PER_LISTED: Final = 20
"""Scores kept for each listed item: an item must be able to rise before it is listed."""
_KEY_BYTES: Final = 8


class Trending:
    """Scores of items, and the list of trending items."""

    def __init__(self, *, half_life_seconds: float, weights: Mapping[str, float], num_items: int) -> None:
        """`weights` are by event type; a type that is missing has weight 0. `num_items` items are listed."""
        self._tau = half_life_seconds / math.log(2)
        self._epoch_seconds = math.ceil(_EPOCH_TAUS * self._tau)
        self._weights = {name: weight for name, weight in weights.items() if weight > 0}
        self._num_items = num_items
        # Scores with different half-lives cannot be added: each half-life has its own sets.
        self._prefix = b"%btrending/%d/" % (KEY_PREFIX, round(half_life_seconds))

    def additions(self, events: Iterable[Event], now: float) -> list[Command]:
        """Commands that add events to the scores. An event dated in the future counts as of now."""
        landmark = self._landmark(now)
        scores: dict[bytes, float] = defaultdict(float)
        for event in events:
            weight = self._weights.get(event.type)
            if weight is None:
                continue
            age_seconds = max(0.0, now - event.occurred_at / 1e6)
            share = math.exp(-age_seconds / self._tau)
            if share >= _MIN_SHARE:
                key = id_key(event.item_id).to_bytes(_KEY_BYTES, "little")
                scores[key] += weight * share * math.exp((now - landmark) / self._tau)
        if not scores:
            return []
        key = self._key(landmark)
        return [
            *(("ZINCRBY", key, score, item) for item, score in scores.items()),
            ("EXPIREAT", key, landmark + 3 * self._epoch_seconds),
        ]

    def score_keys(self, now: float) -> list[bytes]:
        """Keys of the sets whose scores are listed at the time `now`, that of the newest landmark first."""
        return [self._key(self._landmark(now)), self._key(self._landmark(now) - self._epoch_seconds)]

    def oldest_that_weighs(self, now: float) -> int:
        """Microseconds since 1970 before which an event adds nothing to the scores at the time `now`."""
        return int(1e6 * (now + self._tau * math.log(_MIN_SHARE)))

    def publish(self, store: StoreConnection, now: float) -> None:
        """Writes the list at the time `now`, and drops the scores of items far below it. Raises StoreAway."""
        landmarks = [self._landmark(now), self._landmark(now) - self._epoch_seconds]
        keys = self.score_keys(now)
        num_read = 2 * self._num_items
        newest = store.run([("ZRANGE", key, 0, num_read - 1, "REV") for key in keys])
        items = list(dict.fromkeys(item for landmark_items in newest for item in landmark_items))
        if not items:
            return
        totals = np.zeros(len(items))
        for landmark, scores in zip(landmarks, store.run([("ZMSCORE", key, *items) for key in keys]), strict=True):
            totals += np.array([float(score or 0) for score in scores]) * math.exp((landmark - now) / self._tau)
        order = np.argsort(-totals, kind="stable")[: self._num_items]
        item_keys = np.frombuffer(b"".join(items), dtype="<u8")
        listed = TrendingItems(item_keys=item_keys[order], scores=totals[order].astype(np.float32))
        num_kept = _KEPT_PER_LISTED * self._num_items
        store.run(
            [
                ("SET", trending_key(), listed.to_bytes()),
                *(("ZREMRANGEBYRANK", key, 0, -num_kept - 1) for key in keys),
            ]
        )

    def _landmark(self, now: float) -> int:
        return int(now) // self._epoch_seconds * self._epoch_seconds

    def _key(self, landmark: int) -> bytes:
        return self._prefix + b"%d" % landmark


def trending_of(settings: Settings) -> Trending:
    """The trending items that the settings describe."""
    return Trending(
        half_life_seconds=settings.trending_half_life_seconds,
        weights=settings.trending_weights,
        num_items=settings.trending_items,
    )


class TrendingSchedule:
    """Decides when the list is published: soon after a change of a score, and periodically because scores decay."""

    def __init__(self, *, after_change_seconds: float, at_least_every_seconds: float) -> None:
        self._after_change_seconds = after_change_seconds
        self._at_least_every_seconds = at_least_every_seconds
        self._changed = True
        self._published_at = -math.inf

    def changed(self) -> None:
        """Notes that a score has changed."""
        self._changed = True

    def is_due(self) -> bool:
        """Whether the list should be published now."""
        waited = time.monotonic() - self._published_at
        return waited >= (self._after_change_seconds if self._changed else self._at_least_every_seconds)

    def published(self) -> None:
        """Notes that the list was published."""
        self._changed = False
        self._published_at = time.monotonic()

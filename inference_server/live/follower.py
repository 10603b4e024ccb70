"""Follows the live catalogue: a change of an item in the store takes effect in answers within seconds.

Each worker has one follower. It keeps the changes of items independently of the bundle that serves, and vectors for
each open bundle, so that a bundle that takes over, or comes back, starts with everything that is known. While the store
is unavailable, what is known stays in force. A bundle that is opened beside another one waits up to 20 s for its
vectors of the items that are live now.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from inference_server.live.changes import ItemChanges, may_be_recommended
from inference_server.live.feeds import FeedReader
from inference_server.live.merge import merge
from inference_server.live.vectors import ItemVectors
from inference_server.model.serving_model import ModelSlot, ServingModel, with_live
from inference_server.store.user_store import ReadsFeeds, StoreFailed
from inference_server.telemetry.statistics import Statistics
from tandem.contract.errors import StreamEntryError
from tandem.contract.live_items import item_vectors_feed, item_vectors_position_key, items_feed
from tandem.contract.streams import AppliedItemChange

_log = structlog.get_logger()

_POLL_SECONDS: Final = 1.0
"""Pause between two polls of the feeds' counters."""
_PATIENCE_SECONDS: Final = 1.0
"""Longest wait for the store's reply to a poll."""
_MAX_HAND_OVER_SECONDS: Final = 20.0
"""Longest wait for the vectors of a bundle that is to take over. feature_sync polls for new bundles every 5 s,
downloads them, and makes a vector in about 8 ms."""
_HAND_OVER_POLL_SECONDS: Final = 0.25
_MAX_ENTRIES: Final = 5_000
"""Number of entries of a feed after which what was read takes effect, before more is read."""


@dataclass(eq=False)
class _Followed:
    """An open bundle whose vectors are followed."""

    model: ServingModel
    """As it was opened, or with the live items that it was last given."""
    reader: FeedReader
    vectors: ItemVectors
    num_vector_reads: int = 0
    """Reads that brought new vectors."""
    merged: ServingModel | None = None
    """What is in force under every name of this bundle; None while it has none."""
    merged_at: tuple[int, int] = (-1, -1)
    """Numbers of reads that brought changes, and vectors, when `merged` was made."""

    @property
    def merged_until(self) -> int:
        """Sequence of the last change that is in the bundle."""
        return self.model.bundle.manifest.catalogue_sequence


@dataclass(eq=False)
class _InForce:
    """A bundle that answers under one name."""

    followed: _Followed
    variant: str
    shown: ServingModel | None = None
    """What was merged for it last."""


_OWN: Final = ""
"""The name of the server's own model; the others have that of their alias or version number."""


@dataclass
class _News:
    """What a poll of the feeds has brought."""

    is_complete: bool = True
    """Whether both feeds were read to their ends."""
    changed_at: list[int] = field(default_factory=list)
    """Times of the changes that take effect now, microseconds since 1970."""


class LiveFollower:
    """Keeps the live items of the serving model up to date."""

    def __init__(self, store: ReadsFeeds, models: ModelSlot, statistics: Statistics, *, max_items: int) -> None:
        """Moves the pointer of `models`. At most `max_items` changes are kept in full."""
        self._store = store
        self._models = models
        self._statistics = statistics
        self._max_items = max_items
        self._changes = ItemChanges(max_items)
        self._items = FeedReader(store, items_feed())
        self._known_after: int | None = None
        """All changes after this sequence are known; None before the first bundle."""
        self._num_change_reads = 0
        """Reads that brought new changes, for whatever bundle they were made."""
        self._followed: list[_Followed] = []
        self._in_force: dict[str, _InForce] = {}
        self._sequence_in_force = 0
        self._read_at = time.monotonic()
        # One task at a time reads the feeds or makes a model of what was read.
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Polls the feeds until it is cancelled."""
        while True:
            try:
                is_complete = await self.poll()
            except StoreFailed:
                is_complete = True  # the rest can only be read later
            except Exception:  # an entry of any content leaves what is known in force, and the next entry may be sound
                _log.exception("live_catalogue_failed")
                is_complete = True
            if is_complete:
                await asyncio.sleep(_POLL_SECONDS)

    async def poll(self) -> bool:
        """Reads what changed and puts it in force. Returns whether everything was read. Raises StoreFailed."""
        async with self._turn:
            if _OWN not in self._in_force:
                return True
            is_complete = True
            for name, in_force in sorted(self._in_force.items()):  # the own model first
                news = await self._read(in_force.followed)
                is_complete &= news.is_complete
                await self._put_in_force(name, in_force)
                if name == _OWN:
                    self._observe(news)
            self._sequence_in_force = self._items.position
            return is_complete

    async def prepare(self, model: ServingModel) -> None:
        """Reads the feeds for a bundle that is open but does not serve yet. What cannot be read now is read later.

        Returns when the bundle has a vector for every live item, or after 20 s.
        """
        followed = _Followed(
            model,
            FeedReader(self._store, item_vectors_feed(model.version)),
            ItemVectors(model.bundle.manifest.embedding_dim),
        )
        async with self._turn:
            self._followed.append(followed)
            await self._catch_up(followed)
        try:
            await self._wait_for_vectors(followed)
        except StoreFailed:
            return  # a store that is unavailable must not hold up the bundle

    async def serve(self, model: ServingModel, *, variant: str = "", is_further: bool = False) -> None:
        """Moves the pointer to a bundle that was prepared, with all of its live items that are known.

        It answers as the server's own model, or, with `is_further`, under the name `variant` beside it.
        """
        followed = next(followed for followed in self._followed if followed.model.bundle is model.bundle)
        name = variant if is_further else _OWN
        async with self._turn:
            await self._catch_up(followed)
            in_force = self._in_force[name] = _InForce(followed, variant)
            await self._put_in_force(name, in_force)
            self._sequence_in_force = self._items.position
            self._let_go_of_merged()
            if self._known_after is not None:
                in_every_bundle = min(followed.merged_until for followed in self._followed)
                self._known_after = max(self._known_after, in_every_bundle)
                self._changes.forget_until(self._known_after)

    def withdraw(self, name: str) -> None:
        """Takes a further model out of force."""
        self._in_force.pop(name, None)
        self._models.further.pop(name, None)
        self._let_go_of_merged()

    def forget(self, model: ServingModel) -> None:
        """Stops following a bundle."""
        self._followed = [followed for followed in self._followed if followed.model.bundle is not model.bundle]

    def bring_up_to_date(self) -> None:
        """Writes the state of the live catalogue into the statistics."""
        model = self._models.current
        live = None if model is None else model.live
        statistics = self._statistics
        statistics.live_items = live.num_recommendable if live is not None else 0
        statistics.live_dead_rows = len(live.dead) if live is not None else 0
        statistics.live_waiting = live.num_waiting if live is not None else 0
        statistics.live_put_off = self._changes.num_put_off
        statistics.live_sequence = self._sequence_in_force
        statistics.live_age_seconds = time.monotonic() - self._read_at

    async def _wait_for_vectors(self, followed: _Followed) -> None:
        """Waits for the vectors of a bundle that is to take over. Raises StoreFailed."""
        give_up_at = time.monotonic() + _MAX_HAND_OVER_SECONDS
        position_key = item_vectors_position_key(followed.model.version)
        while self._changes_without_vector(followed):
            (position,) = await self._store.read([position_key], _PATIENCE_SECONDS)
            async with self._turn:
                await self._catch_up(followed)
            missing = self._changes_without_vector(followed)
            if not missing or int(position or 0) >= max(missing):
                return  # feature_sync is past the missing ones: the bundle's tower cannot encode these items
            if time.monotonic() >= give_up_at:
                _log.warning("live_items_missed", model_version=followed.model.version, num_items=len(missing))
                return
            await asyncio.sleep(_HAND_OVER_POLL_SECONDS)

    def _changes_without_vector(self, followed: _Followed) -> list[int]:
        """Sequences of the changes whose items are recommended now, and would not be if this bundle took over."""
        if _OWN not in self._in_force:
            return []
        serving = self._in_force[_OWN].followed
        return [
            applied.sequence
            for key, applied in self._changes.since(followed.merged_until)
            if may_be_recommended(applied)
            and (applied.sequence <= serving.merged_until or serving.vectors.has(key, applied))
            and not followed.vectors.has(key, applied)
        ]

    async def _catch_up(self, followed: _Followed) -> None:
        try:
            while not (await self._read(followed)).is_complete:
                pass
        except StoreFailed as error:
            _log.warning("live_catalogue_not_read", model_version=followed.model.version, reason=str(error.reason))

    async def _read(self, followed: _Followed) -> _News:
        """Reads changes, and vectors for one bundle. Raises StoreFailed."""
        counters = await self._store.read([self._items.counter, followed.reader.counter], _PATIENCE_SECONDS)
        until_change, until_vector = (int(counter or 0) for counter in counters)
        news = _News()
        await self._read_changes(followed, until_change, news)
        if news.is_complete:
            # A vector of a change that is not known yet would be dropped.
            await self._read_vectors(followed, until_vector, news)
        if news.is_complete:
            self._read_at = time.monotonic()
        return news

    async def _read_changes(self, followed: _Followed, until: int, news: _News) -> None:
        if 0 < until < self._items.position:
            _log.warning("items_feed_began_anew", was_at=self._items.position, now_at=until)
            self._known_after = None
        if self._known_after is None or followed.merged_until < self._known_after:
            # This bundle needs older changes than the ones known. Until all are read, the known ones stay in force.
            changes = ItemChanges(self._max_items)
            reader = FeedReader(self._store, items_feed(), after=min(followed.merged_until, until))
            while reader.position < until:
                async for values in reader.changed(until, _MAX_ENTRIES):
                    changes.take(_parsed(values))
            self._changes, self._items, self._known_after = changes, reader, followed.merged_until
            self._num_change_reads += 1
            return
        num_put_off = self._changes.num_put_off
        async for values in self._items.changed(until, _MAX_ENTRIES):
            parsed = _parsed(values)
            self._changes.take(parsed)
            self._num_change_reads += 1
            news.changed_at += [applied.change.changed_at for applied in parsed if not may_be_recommended(applied)]
        if self._changes.num_put_off > num_put_off:
            _log.warning("live_items_put_off", limit=self._max_items, put_off=self._changes.num_put_off)
        news.is_complete = self._items.position >= until

    async def _read_vectors(self, followed: _Followed, until: int, news: _News) -> None:
        if 0 < until < followed.reader.position:
            # A version's feed expires when feature_sync is down for long, and starts again when it is back. Until then
            # the known vectors stay in force.
            followed.reader = FeedReader(self._store, item_vectors_feed(followed.model.version))
            followed.vectors = ItemVectors(followed.model.bundle.manifest.embedding_dim)
            followed.num_vector_reads += 1
        async for values in followed.reader.changed(until, _MAX_ENTRIES):
            for key in followed.vectors.take(values, self._changes):
                followed.num_vector_reads += 1
                applied = self._changes[key]
                if followed.vectors.has(key, applied) and may_be_recommended(applied):
                    news.changed_at.append(applied.change.changed_at)
        followed.vectors.keep_known(self._changes)
        news.is_complete = followed.reader.position >= until

    async def _put_in_force(self, name: str, in_force: _InForce) -> None:
        """Moves the pointer of one name to its bundle with the live items that are known now."""
        model = await self._merged(in_force.followed)
        if in_force.shown is model or self._in_force.get(name) is not in_force:
            return  # no news, or withdrawn meanwhile
        in_force.shown = model
        named = model if model.variant == in_force.variant else replace(model, variant=in_force.variant)
        if name == _OWN:
            self._models.current = named
        else:
            self._models.further[name] = named

    async def _merged(self, followed: _Followed) -> ServingModel:
        """The model with the live items that are known now, made anew if there are news. In a thread, because thousands
        of items take tens of milliseconds."""

        def make() -> ServingModel:
            return with_live(followed.model, merge(followed.model.bundle, self._changes, followed.vectors.by_key))

        known = (self._num_change_reads, followed.num_vector_reads)
        if followed.merged is None or followed.merged_at != known:
            followed.merged, followed.merged_at = await asyncio.to_thread(make), known
        return followed.merged

    def _let_go_of_merged(self) -> None:
        """Frees what was merged for bundles that are open, and in force under no name."""
        in_force = [in_force.followed for in_force in self._in_force.values()]
        for followed in self._followed:
            if followed not in in_force:
                followed.merged = None

    def _observe(self, news: _News) -> None:
        now = time.time()
        for changed_at in news.changed_at:
            self._statistics.live_lag_seconds.observe(max(now - changed_at * 1e-6, 0.0))


def _parsed(values: list[tuple[bytes, bytes]]) -> list[AppliedItemChange]:
    """The changes that can be parsed. An unreadable one is logged and has no effect."""
    changes = []
    for item, value in values:
        try:
            changes.append(AppliedItemChange.from_bytes(value))
        except StreamEntryError as error:
            _log.warning("item_change_refused", item_id=item.decode(errors="replace"), reason=str(error))
    return changes

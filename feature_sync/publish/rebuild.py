"""Rebuilding: what a store has lost is made again from prepared data, archive, and the log of what is in no file yet.

    states, vectors   as a publish, each state with all events that were ever applied to it
    item counters     the number of events that were ever applied, or what the store holds, if that is more
    trending items    the scores of the events that still weigh anything
    event ids         those of the newest events, so that a repeated call takes no effect again

It runs beside `feature_sync run` and may be repeated. States are written in transactions that begin anew if an event
was applied meanwhile; to counters and scores only what is missing is added. What the store holds beyond the sources is
kept.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from feature_sync.archive.applied_events import AppliedEvents
from feature_sync.core.errors import PreparedDataError
from feature_sync.core.settings import Settings
from feature_sync.events.marks import EventMarks, mark_of
from feature_sync.events.states import with_events
from feature_sync.events.trending import trending_of
from feature_sync.prepared.prepared import PreparedUser, open_prepared
from feature_sync.publish.publish import PublishReport, publish
from feature_sync.store.connection import Command, StoreClock, StoreConnection
from feature_sync.store.deleted_users import agree
from tandem.contract.deleted_users import NOBODY, DeletedUsers, is_left_out
from tandem.contract.event_rule import EventRule
from tandem.contract.manifest import Manifest
from tandem.contract.pairs import Entries
from tandem.contract.store import UserState, item_counters_key
from tandem.contract.streams import EVENTS, Event

_ITEMS_AT_ONCE: Final = 200
_MARKS_AT_ONCE: Final = 5_000
_SMALLEST_SHARE: Final = 1e-6
"""A smaller part of a score is the rounding of its sum."""
_PREPARED: Final = "prepared"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class RebuildReport:
    """What was made again."""

    prepared: str
    """Folder of the prepared data."""
    num_events: int
    """Applied events that were found in the archive and in the log."""
    published: PublishReport
    num_item_counters: int
    num_trending_items: int
    num_event_ids: int
    seconds: float
    microseconds_per_user: float


def rebuild(settings: Settings, prepared_dir: Path | None, *, bundle_dir: Path | None = None) -> RebuildReport:
    """Makes again what the store has lost. Raises FeatureSyncError or BundleError.

    Without `prepared_dir` the newest folder of prepared data in the data folder is used.
    """
    started = time.monotonic()
    folder = prepared_dir or _newest_prepared(settings.data_dir / _PREPARED)
    with StoreConnection(settings.store_url) as store:
        events = AppliedEvents(store, settings.data_dir / EVENTS)
        _log.info("rebuilding", prepared=str(folder), num_events=events.num_events)
        history = ArchivedHistory(
            events,
            newest_day=open_prepared(folder).newest_day,
            min_rating=settings.event_min_rating,
            deleted=agree(store, settings.data_dir),
        )
        published = publish(settings, folder, bundle_dir=bundle_dir, history=history)
        states_seconds = time.monotonic() - started
        num_counters = _rebuild_counters(store, events)
        num_trending = _rebuild_trending(store, events, settings)
        num_marks = _rebuild_marks(store, events, mark_seconds=settings.event_id_seconds)
    return RebuildReport(
        prepared=str(folder),
        num_events=events.num_events,
        published=published,
        num_item_counters=num_counters,
        num_trending_items=num_trending,
        num_event_ids=num_marks,
        seconds=round(time.monotonic() - started, 3),
        microseconds_per_user=round(1e6 * states_seconds / max(1, published.num_users), 1),
    )


class ArchivedHistory:
    """The users' events in archive and log, see `publish.History`."""

    def __init__(
        self, events: AppliedEvents, *, newest_day: str, min_rating: float | None, deleted: DeletedUsers = NOBODY
    ) -> None:
        """`newest_day` is the last day of the archive that the prepared data contain; empty: none."""
        self._events = events
        self._deleted = deleted
        self._newest_day = newest_day
        self._min_rating = min_rating
        self._rule = EventRule(min_rating)

    def follow(self, manifest: Manifest) -> None:
        """The rule is the model's, but for a least rating that the settings name, as in `ServedEventRule`."""
        self._rule = EventRule.of(manifest)
        if self._min_rating is not None:
            self._rule = dataclasses.replace(self._rule, min_rating=self._min_rating)

    def further_users(self, prepared_ids: Iterable[str]) -> Sequence[PreparedUser]:
        """The users of the archive that the prepared data lack."""
        known = set(prepared_ids)
        return [
            PreparedUser(user_id, UserState(), self._deleted.deleted_at(user_id))
            for user_id in self._events.user_ids()
            if user_id not in known
        ]

    def states(self, users: Sequence[PreparedUser]) -> Sequence[UserState]:
        """The states after all events that were applied until now. Raises StoreAway."""
        self._events.refresh()
        return [self._state(user) for user in users]

    def _state(self, user: PreparedUser) -> UserState:
        dated = [
            (event, day)
            for event, day in self._events.of_user(user.user_id)
            if not is_left_out(user.deleted_at, event.occurred_at, event.received_at)
        ]
        if not dated:
            return user.state
        events = [event for event, _ in dated]
        state = self._after(user.state, events)
        # The prepared data count their own interactions, which include events up to their newest day.
        later = self._after(user.state, [event for event, day in dated if not day or day > self._newest_day])
        archived = self._after(UserState(), events)
        # Events that are in both were added twice: the counts are those of either record.
        entries = Entries.of(state.event_item_keys, state.event_codes, state.event_times)
        if self._rule.strengths is not None:
            state = state.with_entries(entries.with_counts_of(later.entries).with_counts_of(archived.entries))
        return dataclasses.replace(
            state,
            revision=user.state.revision,
            event_counts=np.maximum(later.event_counts, archived.event_counts),
        )

    def _after(self, state: UserState, events: Sequence[Event]) -> UserState:
        for part in _in_order(events) if events else ():
            state = with_events(state, part, self._rule)
        return state


def _in_order(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Parts of events in the order of their times: adding such a part at once is adding one event after the other."""
    cuts = [index for index, (one, next_) in enumerate(pairwise(events), 1) if next_.occurred_at < one.occurred_at]
    for start, end in pairwise([0, *cuts, len(events)]):
        yield events[start:end]


def _rebuild_counters(store: StoreConnection, events: AppliedEvents) -> int:
    item_ids = sorted({item_id for item_id, _ in events.item_counts()})
    for part in _batched(item_ids, _ITEMS_AT_ONCE):
        keys = [item_counters_key(item_id) for item_id in part]
        stored = events.refresh_and_read([("HGETALL", key) for key in keys])
        held = {
            (item_id, event_type.decode()): int(number)
            for item_id, reply in zip(part, stored, strict=True)
            for event_type, number in zip(reply[::2], reply[1::2], strict=True)
        }
        wanted = set(part)
        # Added, so that events which are applied meanwhile count too.
        store.run(
            [
                ("HINCRBY", item_counters_key(item_id), event_type, number - held.get((item_id, event_type), 0))
                for (item_id, event_type), number in events.item_counts().items()
                if item_id in wanted and number > held.get((item_id, event_type), 0)
            ]
        )
    return len(item_ids)


def _rebuild_trending(store: StoreConnection, events: AppliedEvents, settings: Settings) -> int:
    trending = trending_of(settings)
    now = StoreClock(store).now()
    newest, before = events.refresh_and_read([("ZRANGE", key, 0, -1, "WITHSCORES") for key in trending.score_keys(now)])
    if before:
        return 0  # the scores of the time before are there, so none were lost
    held = {item: float(score) for item, score in zip(newest[::2], newest[1::2], strict=True)}
    additions: list[Command] = []
    for command in trending.additions(events.since(trending.oldest_that_weighs(now)), now):
        if command[0] != "ZINCRBY":
            additions.append(command)
            continue
        _, key, score, item = command
        lost = float(score) - held.get(bytes(item), 0.0) if isinstance(item, bytes) else 0.0
        if lost > _SMALLEST_SHARE * float(score):
            additions.append(("ZINCRBY", key, lost, item))
    store.run(additions)
    trending.publish(store, now)
    return sum(command[0] == "ZINCRBY" for command in additions)


def _rebuild_marks(store: StoreConnection, events: AppliedEvents, *, mark_seconds: int) -> int:
    now = StoreClock(store).now()
    marks = EventMarks(period_seconds=mark_seconds, now=now)
    num_marks = 0
    for part in _batched(events.received_since(int(1e6 * (now - mark_seconds))), _MARKS_AT_ONCE):
        store.run(marks.additions(map(mark_of, part)))
        num_marks += len(part)
    return num_marks


def _batched(values: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(values)
    while part := list(islice(iterator, size)):
        yield part


def _newest_prepared(folder: Path) -> Path:
    found = sorted(folder.glob("*/prepared.json"), key=lambda about: about.stat().st_mtime)
    if not found:
        raise PreparedDataError(f"{folder} holds no prepared data: name their folder with --prepared")
    return found[-1].parent

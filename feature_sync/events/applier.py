"""Applies a batch of events with one read and one transaction, so that a crash at any point loses and repeats nothing.

The transaction holds every effect of an event, its mark and its acknowledgement included. So an event is applied
completely or not at all, and a repeated event finds its mark. States are watched: if another consumer or a publish
writes one meanwhile, the batch is retried. So is the register of deleted users: a user who is deleted between the read
and the transaction gets no state of events from before. Counters and scores are only added to, which needs no watching.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from feature_sync.events.marks import EventMarks, mark_of
from feature_sync.events.states import by_user, state_after
from feature_sync.events.trending import Trending, TrendingSchedule
from feature_sync.store.connection import Command, StoreClock, StoreConnection
from feature_sync.store.deleted_users import deletions_among, lookup
from feature_sync.stream.consumer import Parsed
from feature_sync.telemetry.metrics import StreamMetrics
from tandem.contract.bundle import Bundle
from tandem.contract.deleted_users import is_left_out
from tandem.contract.event_rule import EventRule
from tandem.contract.store import deleted_users_key, item_counters_key, user_state_key
from tandem.contract.streams import ENTRY_FIELD, EVENTS, Event, applied_key
from tandem.contract.vocabulary import MISSING_ROW

_TRENDING_AFTER_CHANGE_SECONDS = 1.0
_TRENDING_AT_LEAST_EVERY_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class EventRules:
    """The settings for events."""

    mark_seconds: int
    """Minimum time for which an event id is remembered."""
    rule: Callable[[], EventRule]
    """Returns which events are choices and which stands for several, see `event_rule`."""
    unknown_item_seconds: int = 30 * 24 * 3600
    """Time after its last event for which the counter of an item that no live bundle knows is kept."""


class EventApplier:
    """Lets events take effect. Holds one connection to the online store; not for several threads."""

    def __init__(
        self,
        store: StoreConnection,
        *,
        rules: EventRules,
        trending: Trending,
        metrics: StreamMetrics,
        on_changed_users: Callable[[Collection[str]], None] = lambda _: None,
        live_bundles: Callable[[], Sequence[Bundle]] = lambda: (),
    ) -> None:
        """`on_changed_users` gets the users whose states were written, after each transaction; it must be quick.

        `live_bundles` say which items are known; while there is none, no counter expires.
        """
        self._store = store
        self._clock = StoreClock(store)
        self._rules = rules
        self._trending = trending
        self._schedule = TrendingSchedule(
            after_change_seconds=_TRENDING_AFTER_CHANGE_SECONDS,
            at_least_every_seconds=_TRENDING_AT_LEAST_EVERY_SECONDS,
        )
        self._metrics = metrics
        self._on_changed_users = on_changed_users
        self._live_bundles = live_bundles

    def parse(self, payload: bytes) -> Event:
        """Reads an event. Raises StreamEntryError."""
        return Event.from_bytes(payload)

    def apply(self, entries: Sequence[Parsed[Event]], acknowledgement: Sequence[Command]) -> None:
        """Applies events whose ids are new, but none from before their user's deletion. Raises StoreAway,
        StoreConflict, and StoreValueError for an unreadable state."""
        now = self._clock.now()
        first_of_id = {entry.value.event_id: entry for entry in reversed(entries)}
        candidates = [entry for entry in entries if first_of_id[entry.value.event_id] is entry]
        marks = EventMarks(period_seconds=self._rules.mark_seconds, now=now)
        mark_of_candidate = [mark_of(entry.value.event_id) for entry in candidates]
        users = list({entry.value.user_id for entry in candidates})
        state_keys = [user_state_key(user_id) for user_id in users]

        # A batch that ended in an exception may have left keys watched.
        _, _, states, deletions, *replies = self._store.run(
            [
                ("UNWATCH",),
                ("WATCH", *state_keys, deleted_users_key()),
                ("MGET", *state_keys),
                lookup(users),
                *marks.lookups(mark_of_candidate),
            ]
        )
        deleted_at = deletions_among(users, deletions)
        is_left = [_is_left_out(entry.value, deleted_at) for entry in candidates]
        is_new = [not (known or left) for known, left in zip(marks.found(replies), is_left, strict=True)]
        new = [entry for entry, is_one in zip(candidates, is_new, strict=True) if is_one]
        new_marks = [mark for mark, is_one in zip(mark_of_candidate, is_new, strict=True) if is_one]
        grouped = by_user(entry.value for entry in new)
        stored = dict(zip(users, states, strict=True))
        trending = self._trending.additions((entry.value for entry in new), now)

        self._store.transaction(
            [
                *self._state_writes(grouped, stored),
                *marks.additions(new_marks),
                *_counter_additions(new),
                *self._counter_expiries({entry.value.item_id for entry in new}),
                *trending,
                *(("XADD", applied_key(EVENTS), "*", ENTRY_FIELD, entry.payload) for entry in new),
                *acknowledgement,
            ]
        )
        if trending:
            self._schedule.changed()
        self._count(new, num_duplicates=len(entries) - len(new) - sum(is_left), num_left_out=sum(is_left))
        self._on_changed_users(grouped.keys())

    def rest(self) -> None:
        """Publishes the trending items if that is due. Raises StoreAway."""
        if self._schedule.is_due():
            self._trending.publish(self._store, self._clock.now())
            self._schedule.published()

    def _state_writes(self, grouped: dict[str, list[Event]], stored: dict[str, bytes | None]) -> list[Command]:
        writes: list[str | bytes | int | float] = ["MSET"]
        rule = self._rules.rule()
        for user_id, events in grouped.items():
            state = state_after(stored[user_id], events, rule)
            writes += (user_state_key(user_id), state)
        return [tuple(writes)] if grouped else []

    def _counter_expiries(self, item_ids: Collection[str]) -> list[Command]:
        """Lets the counters of items that no live bundle knows expire: anybody who may record events could make any
        number of them. An item that becomes known keeps its counter from its next event on."""
        bundles, ids = self._live_bundles(), list(item_ids)
        if not bundles or not ids:
            return []
        is_known = np.any([bundle.item_vocabulary.rows(ids) != MISSING_ROW for bundle in bundles], axis=0)
        seconds = self._rules.unknown_item_seconds
        return [
            ("PERSIST", item_counters_key(item_id)) if known else ("EXPIRE", item_counters_key(item_id), seconds)
            for item_id, known in zip(ids, is_known, strict=True)
        ]

    def _count(self, new: Sequence[Parsed[Event]], *, num_duplicates: int, num_left_out: int) -> None:
        self._metrics.duplicates.inc(num_duplicates)
        self._metrics.left_out.inc(num_left_out)
        for event_type, number in Counter(entry.value.type for entry in new).items():
            self._metrics.count_applied(event_type, number)


def _is_left_out(event: Event, deleted_at: Mapping[str, int]) -> bool:
    return is_left_out(deleted_at.get(event.user_id), event.occurred_at, event.received_at)


def _counter_additions(entries: Sequence[Parsed[Event]]) -> list[Command]:
    counts = Counter((entry.value.item_id, entry.value.type) for entry in entries)
    return [
        ("HINCRBY", item_counters_key(item_id), event_type, number) for (item_id, event_type), number in counts.items()
    ]

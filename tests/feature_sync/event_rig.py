"""A consumer of events over a real Valkey, run in a thread until the stream is empty."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import redis

from feature_sync.events.applier import EventApplier, EventRules
from feature_sync.events.trending import Trending
from feature_sync.store.connection import StoreConnection
from feature_sync.stream.consumer import Consumer
from feature_sync.stream.dead_letters import DeadLetters
from feature_sync.stream.redis_source import RedisSource
from feature_sync.stream.source import Source
from feature_sync.telemetry.metrics import Metrics
from tandem.contract.bundle import Bundle
from tandem.contract.event_rule import EventRule
from tandem.contract.store import UserState, user_state_key
from tandem.contract.streams import ENTRY_FIELD, EVENTS, Event, applied_key, stream_key
from tests.support.waiting import wait_until

NOW = 1_800_000_000_000_000
"""Microseconds since 1970. In these tests only marks and trending items depend on the clock."""

MARK_SECONDS = 3600


def event(number: int, **fields: object) -> Event:
    """Event `number`: ann clicks item-<number>, a second after event `number - 1`; `fields` override."""
    default = Event(
        event_id=f"event-{number}",
        user_id="ann",
        item_id=f"item-{number}",
        type="click",
        occurred_at=NOW + 1_000_000 * number,
        received_at=NOW,
    )
    return dataclasses.replace(default, **fields)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """The stream of events, and the store that they are applied to."""

    client: redis.Redis
    url: str

    def append(self, *entries: Event | bytes) -> None:
        for entry in entries:
            payload = entry if isinstance(entry, bytes) else entry.to_bytes()
            self.client.xadd(stream_key(EVENTS), {ENTRY_FIELD: payload})

    def state(self, user_id: str) -> UserState:
        return UserState.from_bytes(self.client.get(user_state_key(user_id)))

    def applied(self) -> list[Event]:
        return [Event.from_bytes(fields[ENTRY_FIELD]) for _, fields in self.client.xrange(applied_key(EVENTS))]

    @property
    def num_left(self) -> int:
        return int(self.client.xlen(stream_key(EVENTS)))


class Rig:
    """A consumer with its parts."""

    def __init__(
        self,
        url: str,
        *,
        source: Source | None = None,
        min_rating: float | None = None,
        event_weights: Mapping[str, float] | None = None,
        batch_entries: int = 100,
        live_bundles: Sequence[Bundle] = (),
    ) -> None:
        self.store = StoreConnection(url)
        self.metrics = Metrics()
        self.changed_users: list[str] = []
        self.source = source or RedisSource(url, EVENTS, takeover_seconds=0.2, shares_store=True)
        self.applier = EventApplier(
            self.store,
            rules=EventRules(mark_seconds=MARK_SECONDS, rule=lambda: EventRule(min_rating, event_weights or {})),
            trending=Trending(half_life_seconds=3600, weights={"click": 1.0, "purchase": 5.0}, num_items=10),
            metrics=self.metrics.of_stream(EVENTS),
            on_changed_users=self.changed_users.extend,
            live_bundles=lambda: live_bundles,
        )
        self.consumer = Consumer(
            self.source,
            self.applier,
            dead_letters=DeadLetters(self.store, EVENTS, max_entries=1000),
            metrics=self.metrics.of_stream(EVENTS),
            batch_entries=batch_entries,
            wait_seconds=0.02,
        )

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"stream": EVENTS, **labels}) or 0.0


@contextmanager
def running(*rigs: Rig) -> Iterator[None]:
    """Runs consumers during the block, each in a thread; afterwards stops them, which must succeed."""
    threads = [threading.Thread(target=rig.consumer.run) for rig in rigs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for rig, thread in zip(rigs, threads, strict=True):
            rig.consumer.stop()
            thread.join(timeout=30)
            assert not thread.is_alive()
            rig.store.close()


def drain(stream: Stream, *rigs: Rig) -> None:
    """Runs consumers until the stream is empty."""
    with running(*rigs):
        wait_until(lambda: stream.num_left == 0, "the stream is empty")

"""A writer of events that checks their effects, whatever happens to the processes that apply them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import redis

from tandem.contract import names
from tandem.contract.store import TrendingItems, UserState, item_counters_key, trending_key, user_state_key
from tandem.contract.streams import ENTRY_FIELD, EVENTS, Event, applied_key, dead_letters_key, stream_key
from tandem.contract.vocabulary import id_key, id_keys

NUM_USERS = 200
NUM_ITEMS = 50
TYPES = ("impression", "impression", "click", "purchase")


class Ledger:
    """Appends events from its own thread, repeats an earlier event after one in eight, and remembers all events."""

    def __init__(self, client: redis.Redis, *, events_per_second: int, seed: int = 0) -> None:
        self._client = client
        self._pause_seconds = 1 / events_per_second
        self._random = random.Random(seed)
        self.events: dict[str, Event] = {}
        self.num_appended = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()

    def append(self, num_events: int) -> None:
        """Appends `num_events` new events in a single pipeline, from the caller's thread."""
        pipe = self._client.pipeline(transaction=False)
        for _ in range(num_events):
            event = self._event()
            self.events[event.event_id] = event
            repeated = [self._random.choice(list(self.events.values()))] if self._random.random() < 1 / 8 else []
            for entry in (event, *repeated):
                pipe.xadd(stream_key(EVENTS), {ENTRY_FIELD: entry.to_bytes()})
                self.num_appended += 1
        pipe.execute()

    def _write(self) -> None:
        batch_size = 25
        while not self._stop.is_set():
            self.append(batch_size)
            self._stop.wait(batch_size * self._pause_seconds)

    def _event(self) -> Event:
        now = int(time.time() * 1e6)
        number = len(self.events)
        return Event(
            event_id=f"event-{number}",
            user_id=f"user-{self._random.randrange(NUM_USERS)}",
            item_id=f"item-{int(self._random.triangular(0, NUM_ITEMS, 0))}",
            type=self._random.choice(TYPES),
            occurred_at=now - self._random.choice((0, 0, 0, 3_600_000_000)),
            received_at=now,
            position=number,
        )

    def check_states(self) -> None:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        chosen: dict[str, set[str]] = defaultdict(set)
        for event in self.events.values():
            counts[event.user_id][event.type] += 1
            if event.type != "impression":
                chosen[event.user_id].add(event.item_id)
        for user_id, expected in counts.items():
            state = UserState.from_bytes(self._client.get(user_state_key(user_id)))
            assert dict(zip(names.EVENT_TYPES, state.event_counts.tolist(), strict=True)) == {
                event_type: expected[event_type] for event_type in names.EVENT_TYPES
            }
            assert state.seen_item_keys.tolist() == sorted(id_keys(chosen[user_id]).tolist())
            assert sorted(state.event_item_keys.tolist()) == state.seen_item_keys.tolist()
            assert (np.diff(state.event_times) >= 0).all()

    def check_item_counters(self) -> None:
        counts: dict[str, Counter[bytes]] = defaultdict(Counter)
        for event in self.events.values():
            counts[event.item_id][event.type.encode()] += 1
        for item_id, expected in counts.items():
            stored = self._client.hgetall(item_counters_key(item_id))
            assert {name: int(count) for name, count in stored.items()} == expected

    def trends(self, weights: dict[str, float]) -> bool:
        """Whether the published scores are the sums over all events; the half-life is so long that nothing decays."""
        expected: dict[int, float] = defaultdict(float)
        for event in self.events.values():
            if event.type in weights:
                expected[id_key(event.item_id)] += weights[event.type]
        value = self._client.get(trending_key())
        listed = TrendingItems.from_bytes(value)
        return dict(zip(listed.item_keys.tolist(), listed.scores.tolist(), strict=True)) == pytest.approx(
            expected, rel=1e-3
        )

    def check_archive(self, folder: Path) -> None:
        """Checks that each event is exactly once in the files or still in the log, unchanged."""
        archived = [row for file in folder.glob("day=*/*.parquet") for row in pq.read_table(file).to_pylist()]
        logged = [Event.from_bytes(fields[ENTRY_FIELD]) for _, fields in self._client.xrange(applied_key(EVENTS))]
        applied_ids = [row[names.EVENT_ID] for row in archived] + [event.event_id for event in logged]
        assert Counter(applied_ids) == Counter(self.events.keys())
        for row in archived:
            event = self.events[row[names.EVENT_ID]]
            assert (row[names.USER_ID], row[names.TIMESTAMP], row[names.POSITION]) == (
                event.user_id,
                event.occurred_at,
                event.position,
            )

    def check_dead_letters(self) -> None:
        assert self._client.xlen(dead_letters_key(EVENTS)) == 0

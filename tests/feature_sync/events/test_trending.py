"""Forward decay: at any time, scores are the decayed sums of the events, also across two sorted sets."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from feature_sync.events.trending import Trending
from feature_sync.store.connection import StoreConnection
from tandem.contract.store import TrendingItems, trending_key
from tandem.contract.streams import Event
from tandem.contract.vocabulary import id_key
from tests.feature_sync.event_rig import Stream, event

pytestmark = pytest.mark.process

HALF_LIFE = 3600.0
TAU = HALF_LIFE / math.log(2)
EPOCH = math.ceil(100 * TAU)
START = EPOCH * (int(time.time()) // EPOCH + 1)
"""Start of the next sorted set, in seconds since 1970; a set in the past would have expired."""


class Scores:
    def __init__(self, url: str, *, num_items: int = 10) -> None:
        self.store = StoreConnection(url)
        self.trending = Trending(
            half_life_seconds=HALF_LIFE, weights={"click": 1.0, "purchase": 5.0}, num_items=num_items
        )

    def add(self, now: float, *events: Event) -> None:
        if commands := self.trending.additions(events, now):
            self.store.transaction(commands)

    def listed(self, now: float) -> dict[int, float]:
        self.trending.publish(self.store, now)
        value = self.store.call("GET", trending_key())
        items = TrendingItems.from_bytes(value)
        return dict(zip(items.item_keys.tolist(), items.scores.tolist(), strict=True))


@pytest.fixture
def scores(store_url: str) -> Iterator[Scores]:
    scores = Scores(store_url)
    yield scores
    scores.store.close()


def at(seconds: float, item_id: str, event_type: str = "click") -> Event:
    return event(0, item_id=item_id, type=event_type, occurred_at=int(seconds * 1e6))


def test_an_event_loses_half_its_weight_in_a_half_life(scores: Scores) -> None:
    scores.add(START + 10, at(START + 10, "a", "purchase"))
    assert scores.listed(START + 10) == {id_key("a"): pytest.approx(5.0)}
    assert scores.listed(START + 10 + HALF_LIFE) == {id_key("a"): pytest.approx(2.5, rel=1e-5)}


def test_newer_events_overtake_more_older_ones(scores: Scores) -> None:
    scores.add(START + 10, *(at(START + 10, "old") for _ in range(3)))
    later = START + 10 + 2 * HALF_LIFE
    scores.add(later, at(later, "new"))
    listed = scores.listed(later)
    assert list(listed) == [id_key("new"), id_key("old")]
    assert list(listed.values()) == pytest.approx([1.0, 0.75])


def test_a_late_event_adds_its_decayed_weight(scores: Scores) -> None:
    now = START + 10 * HALF_LIFE
    scores.add(now, at(now - HALF_LIFE, "late"), at(now - 1000 * HALF_LIFE, "ancient"))
    assert scores.listed(now) == {id_key("late"): pytest.approx(0.5)}


def test_an_event_from_the_future_counts_as_now(scores: Scores) -> None:
    scores.add(START + 10, at(START + 1_000_000, "a"))
    assert scores.listed(START + 10) == {id_key("a"): pytest.approx(1.0)}


def test_two_sets_make_one_list(scores: Scores) -> None:
    before, after = START + EPOCH - 100, START + EPOCH + 100
    scores.add(before, at(before, "a"), at(before, "b"))
    scores.add(after, at(after, "b"), at(after, "c"))
    decay = math.exp(-200 / TAU)
    assert scores.listed(after) == {
        id_key("b"): pytest.approx(1 + decay),
        id_key("c"): pytest.approx(1.0),
        id_key("a"): pytest.approx(decay),
    }


def test_sets_expire_and_are_bounded(store_url: str, stream: Stream) -> None:
    scores = Scores(store_url, num_items=2)
    seconds, _ = scores.store.call("TIME")
    now = float(seconds)
    scores.add(now, *(at(now - number, f"item-{number}") for number in range(100)))
    assert list(scores.listed(now)) == [id_key("item-0"), id_key("item-1")]
    (key,) = stream.client.keys("tandem/1/trending/*")
    assert stream.client.zcard(key) == 40
    assert EPOCH < stream.client.ttl(key) <= 3 * EPOCH
    scores.store.close()

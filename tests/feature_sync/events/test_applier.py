"""Effects of events on the store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import redis
from confluent_kafka import Producer

from feature_sync.core.errors import StreamAway
from feature_sync.stream.kafka_source import KafkaSource
from feature_sync.stream.source import Entry
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.store import TrendingItems, UserState, item_counters_key, trending_key, user_state_key
from tandem.contract.streams import (
    DEAD_REASON_FIELD,
    ENTRY_FIELD,
    EVENTS,
    applied_key,
    dead_letters_key,
    kafka_options,
    kafka_topic,
)
from tandem.contract.vocabulary import id_key
from tests.feature_sync.event_rig import NOW, Rig, Stream, drain, event, running
from tests.support.kafka import kafka_broker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process


def dead_letters(client: redis.Redis) -> list[tuple[bytes, str]]:
    entries = client.xrange(dead_letters_key(EVENTS))
    return [(fields[ENTRY_FIELD], fields[DEAD_REASON_FIELD].decode()) for _, fields in entries]


def counts(state: UserState) -> dict[str, int]:
    return {name: int(count) for name, count in zip(names.EVENT_TYPES, state.event_counts, strict=True) if count}


class TestOneEvent:
    def test_makes_a_state(self, stream: Stream, rig: Rig) -> None:
        stream.append(event(1))
        drain(stream, rig)
        state = stream.state("ann")
        assert state.revision == 1
        assert state.event_item_keys.tolist() == state.seen_item_keys.tolist() == [id_key("item-1")]
        assert state.event_times.tolist() == [NOW + 1_000_000]
        assert counts(state) == {"click": 1}
        assert rig.changed_users == ["ann"]

    def test_changes_a_state_and_keeps_its_features(self, stream: Stream, rig: Rig) -> None:
        before = UserState.from_events(
            np.array([id_key("old")], dtype=np.uint64),
            np.array([5], dtype=np.uint8),
            np.array([7], dtype=np.int64),
            features={"age": "49"},
            revision=3,
        )
        stream.client.set(user_state_key("ann"), before.to_bytes())
        stream.append(event(1))
        drain(stream, rig)
        state = stream.state("ann")
        assert (state.revision, state.features) == (4, {"age": "49"})
        assert state.event_item_keys.tolist() == [id_key("old"), id_key("item-1")]
        assert counts(state) == {"click": 1, "rating": 1}

    def test_is_counted_for_its_item_and_logged(self, stream: Stream, rig: Rig) -> None:
        stream.append(event(1), event(2, item_id="item-1"), event(3, item_id="item-1", type="impression"))
        drain(stream, rig)
        assert stream.client.hgetall(item_counters_key("item-1")) == {b"click": b"2", b"impression": b"1"}
        assert [applied.event_id for applied in stream.applied()] == ["event-1", "event-2", "event-3"]
        assert rig.value("tandem_sync_applied_total", type="click") == 2

    def test_the_counts_of_ids_that_no_bundle_knows_expire(self, stream: Stream, bundle: Bundle) -> None:
        """Anybody who may record events could make any number of them; the bundle's items are item-0 to item-19."""
        known, unknown = item_counters_key("item-1"), item_counters_key("nothing")
        stream.append(event(1), event(2, item_id="nothing"))
        drain(stream, Rig(stream.url))
        assert (stream.client.ttl(known), stream.client.ttl(unknown)) == (-1, -1), "no bundle is known yet"
        stream.client.expire(known, 1000)
        stream.append(event(3, item_id="item-1"), event(4, item_id="nothing"))
        drain(stream, Rig(stream.url, live_bundles=[bundle]))
        assert stream.client.ttl(known) == -1
        assert 29 * 24 * 3600 < stream.client.ttl(unknown) <= 30 * 24 * 3600
        assert stream.client.hgetall(unknown) == {b"click": b"2"}

    def test_leaves_nothing_behind_in_the_stream(self, stream: Stream, rig: Rig) -> None:
        stream.append(*(event(number) for number in range(250)))
        drain(stream, rig)
        group = stream.client.xinfo_groups("tandem/1/events")[0]
        assert group["pending"] == 0
        assert len(stream.applied()) == 250


class TestRepetition:
    def test_an_id_takes_effect_once(self, stream: Stream, rig: Rig) -> None:
        stream.append(event(1), event(1), event(1, user_id="bob"), event(2))
        drain(stream, rig)
        again = Rig(stream.url)
        stream.append(event(2), event(3))
        drain(stream, again)
        assert [applied.event_id for applied in stream.applied()] == ["event-1", "event-2", "event-3"]
        assert counts(stream.state("ann")) == {"click": 3}
        assert stream.client.get(user_state_key("bob")) is None
        assert rig.value("tandem_sync_duplicates_total") == 2
        assert again.value("tandem_sync_duplicates_total") == 1

    def test_marks_end(self, stream: Stream, rig: Rig) -> None:
        stream.append(event(1))
        drain(stream, rig)
        (key,) = stream.client.keys("tandem/1/event-marks/*")
        assert 3600 <= stream.client.ttl(key) <= 2 * 3600


class TestHistory:
    def test_late_events_are_inserted_by_time(self, stream: Stream, rig: Rig) -> None:
        stream.append(event(5), event(9))
        drain(stream, rig)
        stream.append(event(7), event(1))
        drain(stream, Rig(stream.url))
        assert stream.state("ann").event_times.tolist() == [NOW + 1_000_000 * number for number in (1, 5, 7, 9)]

    def test_impressions_only_count(self, stream: Stream, rig: Rig) -> None:
        stream.append(event(1, type="impression"), event(2, type="purchase"))
        drain(stream, rig)
        assert stream.state("ann").event_item_keys.tolist() == [id_key("item-2")]
        assert counts(stream.state("ann")) == {"impression": 1, "purchase": 1}

    def test_low_ratings_are_seen_and_no_history(self, stream: Stream) -> None:
        stream.append(event(1, type="rating", value=2.0), event(2, type="rating", value=3.0), event(3))
        drain(stream, Rig(stream.url, min_rating=3.0))
        assert stream.state("ann").event_item_keys.tolist() == [id_key("item-2"), id_key("item-3")]
        assert set(stream.state("ann").seen_item_keys.tolist()) == {id_key(f"item-{n}") for n in (1, 2, 3)}
        assert counts(stream.state("ann")) == {"rating": 2, "click": 1}


class TestPoison:
    def test_unreadable_entries_become_dead_letters(self, stream: Stream, rig: Rig) -> None:
        stream.append(b"", b"\x09nonsense", event(1), event(2).to_bytes()[:-1])
        stream.client.xadd("tandem/1/events", {"other": "field"})
        stream.append(event(3))
        drain(stream, rig)
        assert [applied.event_id for applied in stream.applied()] == ["event-1", "event-3"]
        dead = dead_letters(stream.client)
        assert [payload for payload, _ in dead] == [b"", b"\x09nonsense", event(2).to_bytes()[:-1], b""]
        assert "is not format 1" in dead[0][1]
        assert "its header says" in dead[2][1]
        assert "lacks the field" in dead[3][1]
        assert rig.value("tandem_sync_dead_letters_total") == 4

    def test_an_unreadable_state_does_not_stop_events_of_other_users(self, stream: Stream, rig: Rig) -> None:
        stream.client.set(user_state_key("ann"), b"\xff from a newer release")
        stream.append(*(event(number, user_id="ann" if number == 5 else "bob") for number in range(9)))
        drain(stream, rig)
        assert counts(stream.state("bob")) == {"click": 8}
        ((payload, reason),) = dead_letters(stream.client)
        assert payload == event(5, user_id="ann").to_bytes()
        assert reason.startswith("StoreValueError: user state: format 255")
        assert stream.client.get(user_state_key("ann")) == b"\xff from a newer release"

    def test_a_key_of_another_type_fails_only_its_event(self, stream: Stream, rig: Rig) -> None:
        stream.client.lpush(item_counters_key("item-5"), "no hash")
        stream.append(*(event(number) for number in range(9)))
        drain(stream, rig)
        assert len(stream.applied()) == 9
        assert stream.client.hget(item_counters_key("item-6"), "click") == b"1"


class TestTrending:
    def listed(self, stream: Stream) -> TrendingItems:
        value = stream.client.get(trending_key())
        return TrendingItems.from_bytes(value) if value else TrendingItems(np.empty(0, np.uint64), np.empty(0))

    def test_by_weight_with_impressions_left_out(self, stream: Stream, rig: Rig) -> None:
        stream.append(
            *(event(number, item_id="clicked") for number in range(3)),
            event(3, item_id="bought", type="purchase"),
            *(event(number, item_id="shown", type="impression") for number in range(4, 20)),
        )
        with running(rig):
            wait_until(lambda: len(self.listed(stream).item_keys) == 2, "two items trend")
        assert self.listed(stream).item_keys.tolist() == [id_key("bought"), id_key("clicked")]
        assert self.listed(stream).scores.tolist() == pytest.approx([5.0, 3.0], rel=1e-3)


class TestConflicts:
    def test_two_consumers_share_the_work(self, stream: Stream) -> None:
        rigs = [Rig(stream.url, batch_entries=7), Rig(stream.url, batch_entries=5)]
        stream.append(
            *(event(number, item_id=f"item-{number % 10}", user_id=f"u{number % 3}") for number in range(600))
        )
        stream.append(*(event(number, user_id=f"u{number % 3}") for number in range(0, 600, 4)))
        drain(stream, *rigs)
        assert sorted(applied.event_id for applied in stream.applied()) == sorted(f"event-{n}" for n in range(600))
        for user in range(3):
            assert counts(stream.state(f"u{user}")) == {"click": 200}
        applied = [rig.value("tandem_sync_applied_total", type="click") for rig in rigs]
        assert sum(applied) == 600
        assert stream.client.xlen(applied_key(EVENTS)) == 600


class TestKafka:
    """A stream outside the store: an acknowledgement cannot be part of the transaction."""

    def test_an_event_that_comes_again_takes_effect_once(self, stream: Stream) -> None:
        with kafka_broker() as url:
            producer = Producer(kafka_options(url))
            for number in [*range(100), *range(50)]:
                producer.produce(kafka_topic(EVENTS), event(number).to_bytes(), key=b"ann")
            producer.produce(kafka_topic(EVENTS), b"poison", key=b"ann")
            assert producer.flush(30) == 0

            class FailsToAcknowledge(KafkaSource):
                """Fails the first two acknowledgements, as if the program had died after applying the events."""

                num_failures = 0

                def acknowledge(self, entries: Sequence[Entry]) -> None:
                    if self.num_failures < 2:
                        self.num_failures += 1
                        raise StreamAway("the broker went away")
                    super().acknowledge(entries)

            source = FailsToAcknowledge(url, EVENTS, takeover_seconds=0.2)
            rig = Rig(stream.url, source=source, batch_entries=40)
            with running(rig):
                wait_until(lambda: len(stream.applied()) == 100, "all are applied")
                wait_until(lambda: len(dead_letters(stream.client)) > 0, "the unreadable entry is a dead letter")
        assert counts(stream.state("ann")) == {"click": 100}
        assert [applied.event_id for applied in stream.applied()] == [f"event-{number}" for number in range(100)]

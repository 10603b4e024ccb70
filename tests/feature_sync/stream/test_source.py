"""The contract of every kind of stream: which entries a consumer of the group gets, and when it gets them again."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import pytest
import redis
from confluent_kafka import Producer

from deploy.local.ports import free_port
from feature_sync.core.errors import Unavailable
from feature_sync.stream.kafka_source import KafkaSource
from feature_sync.stream.redis_source import RedisSource
from feature_sync.stream.source import Entry, Source
from tandem.contract.streams import CONSUMER_GROUP, ENTRY_FIELD, EVENTS, kafka_options, kafka_topic, stream_key
from tests.support.kafka import kafka_broker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

TAKEOVER_SECONDS = 0.2
_PATIENCE_SECONDS = 40.0


def read(source: Source, num_entries: int, *, max_entries: int = 100) -> list[Entry]:
    """Reads until `num_entries` have come. A group may take seconds to assign a topic."""
    entries: list[Entry] = []
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while len(entries) < num_entries:
        assert time.monotonic() < give_up_at, f"{len(entries)} of {num_entries} entries came"
        entries += source.read(max_entries, 0.2)
    return entries


def payloads(entries: Sequence[Entry]) -> list[bytes | None]:
    return [entry.payload for entry in entries]


class SourceTests(ABC):
    """Tests that hold for every source."""

    @pytest.fixture
    @abstractmethod
    def open_source(self) -> Iterator[Callable[[], Source]]:
        """Opens a further source of the stream, as another process would; all are closed at the end."""

    @pytest.fixture
    @abstractmethod
    def append(self) -> Callable[..., None]:
        """Appends entries, in the given order."""

    def test_reads_entries_in_order(self, open_source: Callable[[], Source], append: Callable[..., None]) -> None:
        append(b"a", b"b", b"c")
        source = open_source()
        entries = read(source, 3, max_entries=2)
        assert payloads(entries) == [b"a", b"b", b"c"]
        append(b"d")
        assert payloads(read(source, 1)) == [b"d"]

    def test_reads_nothing_from_an_empty_stream(
        self, open_source: Callable[[], Source], append: Callable[..., None]
    ) -> None:
        append(b"a")
        source = open_source()
        source.acknowledge(read(source, 1))
        assert list(source.read(10, 0.05)) == []

    def test_repeats_entries_that_were_not_acknowledged(
        self, open_source: Callable[[], Source], append: Callable[..., None]
    ) -> None:
        append(b"a", b"b", b"c")
        source = open_source()
        entries = read(source, 3)
        source.acknowledge(entries[:1])
        source.rewind()
        assert payloads(read(source, 2)) == [b"b", b"c"]

    def test_an_acknowledgement_out_of_order_covers_nothing_else(
        self, open_source: Callable[[], Source], append: Callable[..., None]
    ) -> None:
        append(b"a", b"b", b"c")
        source = open_source()
        entries = read(source, 3)
        source.acknowledge(entries[1:])
        source.rewind()
        assert payloads(read(source, 1))[0] == b"a"

    def test_another_consumer_takes_over_entries_of_a_closed_one(
        self, open_source: Callable[[], Source], append: Callable[..., None]
    ) -> None:
        append(b"a", b"b")
        first = open_source()
        entries = read(first, 2)
        first.acknowledge(entries[:1])
        first.close()
        assert payloads(read(open_source(), 1)) == [b"b"]

    def test_lag_counts_entries_that_are_not_acknowledged(
        self, open_source: Callable[[], Source], append: Callable[..., None]
    ) -> None:
        append(b"a", b"b", b"c")
        source = open_source()
        entries = read(source, 3)
        assert source.lag().num_entries == 3
        source.acknowledge(entries[:2])
        assert source.lag().num_entries == 1
        source.acknowledge(entries[2:])
        lag = source.lag()
        assert (lag.num_entries, lag.oldest_seconds) == (0, 0.0)


class TestRedis(SourceTests):
    @pytest.fixture
    def client(self, store_url: str) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(store_url, protocol=2) as client:
            yield client

    @pytest.fixture
    def open_source(self, store_url: str) -> Iterator[Callable[[], Source]]:
        opened: list[RedisSource] = []

        def open_another() -> Source:
            opened.append(RedisSource(store_url, EVENTS, takeover_seconds=TAKEOVER_SECONDS, shares_store=False))
            return opened[-1]

        yield open_another
        for source in opened:
            source.close()

    @pytest.fixture
    def append(self, client: redis.Redis) -> Callable[..., None]:
        def append_all(*entries: bytes) -> None:
            for entry in entries:
                client.xadd(stream_key(EVENTS), {ENTRY_FIELD: entry})

        return append_all

    def test_what_is_acknowledged_leaves_the_stream(
        self, open_source: Callable[[], Source], append: Callable[..., None], client: redis.Redis
    ) -> None:
        append(b"a", b"b")
        source = open_source()
        source.acknowledge(read(source, 2)[:1])
        assert [fields[ENTRY_FIELD] for _, fields in client.xrange(stream_key(EVENTS))] == [b"b"]

    def test_dead_consumers_are_forgotten_once_they_hold_nothing(
        self, open_source: Callable[[], Source], append: Callable[..., None], client: redis.Redis
    ) -> None:
        append(b"a", b"b")
        first, second = open_source(), open_source()
        kept = read(first, 2)
        first.acknowledge(kept[:1])

        def consumers() -> int:
            second.read(10, 0.05)
            return len(client.xinfo_consumers(stream_key(EVENTS), CONSUMER_GROUP))

        assert payloads(read(second, 1)) == [b"b"]
        wait_until(lambda: consumers() == 1, "the first consumer is forgotten")

    def test_a_stream_that_was_emptied_is_read_on(
        self, open_source: Callable[[], Source], append: Callable[..., None], client: redis.Redis
    ) -> None:
        append(b"a")
        source = open_source()
        read(source, 1)
        client.flushall()
        with pytest.raises(Unavailable):
            source.read(10, 0.05)
        source.rewind()
        append(b"b")
        assert payloads(read(source, 1)) == [b"b"]

    def test_the_age_of_the_oldest_entry(self, open_source: Callable[[], Source], client: redis.Redis) -> None:
        seconds, _ = client.time()
        client.xadd(stream_key(EVENTS), {ENTRY_FIELD: b"a"}, id=f"{(seconds - 60) * 1000}-0")
        assert 60 <= open_source().lag().oldest_seconds < 120

    def test_an_unreachable_store(self) -> None:
        source = RedisSource(
            f"redis://127.0.0.1:{free_port()}/0", EVENTS, takeover_seconds=TAKEOVER_SECONDS, shares_store=True
        )
        with pytest.raises(Unavailable, match="cannot be reached"):
            source.read(1, 0.05)


class TestKafka(SourceTests):
    """Against librdkafka's mock cluster, or the broker that TANDEM_TEST_KAFKA names, see tests/support/kafka.py."""

    @pytest.fixture
    def url(self) -> Iterator[str]:
        with kafka_broker() as url:
            yield url

    @pytest.fixture
    def open_source(self, url: str) -> Iterator[Callable[[], Source]]:
        opened: list[KafkaSource] = []

        def open_another() -> Source:
            opened.append(KafkaSource(url, EVENTS, takeover_seconds=TAKEOVER_SECONDS))
            return opened[-1]

        yield open_another
        for source in opened:
            source.close()

    @pytest.fixture
    def append(self, url: str) -> Callable[..., None]:
        producer = Producer(kafka_options(url))

        def append_all(*entries: bytes) -> None:
            for entry in entries:
                producer.produce(kafka_topic(EVENTS), entry, key=b"one user")
            assert producer.flush(_PATIENCE_SECONDS) == 0

        return append_all

    def test_unreachable_brokers(self) -> None:
        source = KafkaSource(f"kafka://127.0.0.1:{free_port()}", EVENTS, takeover_seconds=TAKEOVER_SECONDS)

        def is_refused() -> bool:
            try:
                source.read(1, 0.1)
            except Unavailable:
                return True
            return False

        wait_until(is_refused, "the brokers are found to be away")
        source.close()

"""The contract of every stream, tested with each broker: a real Valkey, and two that speak Kafka's protocol."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from inference_server.events.kafka_stream import KafkaStream
from inference_server.events.redis_stream import RedisStream
from inference_server.events.stream import Batch, Entry, EventStream, StreamFailed
from tandem.contract.streams import ENTRY_FIELD, EVENTS, ITEM_CHANGES, kafka_options, kafka_topic, stream_key
from tests.support.kafka import BROKERS, kafka_broker
from tests.support.serving import PATIENCE_SECONDS, Valkey, valkey

pytestmark = pytest.mark.process


class Held(ABC):
    """A stream, and a way to its values that does not go through it."""

    stream: EventStream

    @abstractmethod
    async def values(self, name: str) -> list[bytes]:
        """Values in the order in which a reader of one key sees them."""


class HeldByRedis(Held):
    def __init__(self, store: Valkey) -> None:
        self.stream: EventStream = RedisStream(store.url, fsync=True, wait_ms=1000)
        self._store = store

    async def values(self, name: str) -> list[bytes]:
        async with self._store.client() as client:
            return [fields[ENTRY_FIELD] for _, fields in await client.xrange(stream_key(name))]


class HeldByKafka(Held):
    def __init__(self, url: str) -> None:
        self.stream: EventStream = KafkaStream(url, wait_ms=5000)
        self._url = url

    async def values(self, name: str) -> list[bytes]:
        return await asyncio.to_thread(self._read, kafka_topic(name))

    def _read(self, topic: str) -> list[bytes]:
        options = {"group.id": "test", "enable.partition.eof": True, "log_level": 0}
        consumer = Consumer({**kafka_options(self._url), **options})
        found: list[bytes] = []
        try:
            partitions = consumer.list_topics(topic, timeout=PATIENCE_SECONDS).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
            num_ended = 0
            while num_ended < len(partitions):
                message = consumer.poll(PATIENCE_SECONDS)
                assert message is not None, "the broker does not answer"
                if message.error() is None:
                    found.append(message.value() or b"")
                else:
                    num_ended += 1
        finally:
            consumer.close()
        return found


class StreamTests:
    """The contract of `EventStream`. Subclasses have a fixture `held`."""

    async def test_entries_arrive_as_they_are_and_in_the_order_of_their_key(self, held: Held) -> None:
        values = [b"\x00\xff\r\n%d" % number for number in range(300)]
        await held.stream.append([batch(EVENTS, values[:100]), batch(EVENTS, values[100:200])])
        await held.stream.append([batch(EVENTS, values[200:])])
        assert await held.values(EVENTS) == values

    async def test_streams_are_apart(self, held: Held) -> None:
        await held.stream.append([batch(EVENTS, [b"event"]), batch(ITEM_CHANGES, [b"change"])])
        assert await held.values(EVENTS) == [b"event"]
        assert await held.values(ITEM_CHANGES) == [b"change"]

    async def test_the_same_entry_is_taken_again(self, held: Held) -> None:
        for _ in range(2):
            await held.stream.append([batch(EVENTS, [b"again"])])
        assert await held.values(EVENTS) == [b"again", b"again"]

    async def test_a_probe_adds_nothing(self, held: Held) -> None:
        await held.stream.append([batch(EVENTS, [b"1"]), batch(ITEM_CHANGES, [b"2"])])
        await held.stream.probe()
        assert await held.values(EVENTS) == [b"1"]

    async def test_it_is_of_use_again_after_it_was_closed(self, held: Held) -> None:
        await held.stream.append([batch(EVENTS, [b"1"])])
        await held.stream.close()
        await held.stream.append([batch(EVENTS, [b"2"])])
        assert await held.values(EVENTS) == [b"1", b"2"]


def batch(stream: str, values: Sequence[bytes], key: bytes = b"u") -> Batch:
    return Batch(stream, [Entry(key, value) for value in values])


class TestRedisStream(StreamTests):
    @pytest.fixture
    async def held(self, tmp_path: Path) -> AsyncIterator[Held]:
        async with valkey(tmp_path) as store:
            held = HeldByRedis(store)
            yield held
            await held.stream.close()


class TestKafkaStream(StreamTests):
    @pytest.fixture(params=BROKERS)
    async def held(self, request: pytest.FixtureRequest) -> AsyncIterator[Held]:
        with kafka_broker(request.param) as url:
            held = HeldByKafka(url)
            yield held
            await held.stream.close()


async def test_a_redis_that_is_not_there_fails(tmp_path: Path) -> None:
    stream = RedisStream("redis://127.0.0.1:1/0", fsync=True, wait_ms=100)
    with pytest.raises(StreamFailed):
        await stream.append([batch(EVENTS, [b"x"])])
    with pytest.raises(StreamFailed):
        await stream.probe()


async def test_a_kafka_that_is_not_there_fails() -> None:
    stream = KafkaStream("kafka://127.0.0.1:1", wait_ms=200)
    with pytest.raises(StreamFailed):
        await stream.append([batch(EVENTS, [b"x"])])
    with pytest.raises(StreamFailed):
        await stream.probe()
    await stream.close()

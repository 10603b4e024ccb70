"""Kafka, for who has one already or needs more than one store takes. The only module of the server that imports
confluent_kafka.

A message counts as safe once all in-sync replicas have it (`acks=all`); how many there must be is the topic's
`min.insync.replicas`. The producer is idempotent, so its own retries double nothing and keep the order of a key.

Kafka takes messages, not calls: when it fails in the middle of a call, a part of the call is in the topic. The caller
is told UNAVAILABLE, repeats the call, and what was there already takes no effect a second time, because feature_sync
applies an `event_id` once. Kafka's transactions would hide the part from readers, at a round trip and a producer of its
own for each transaction that is open.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from inference_server.core.errors import SettingsError
from inference_server.events.stream import Batch, StreamFailed, StreamFull
from tandem.contract.streams import EVENTS, ITEM_CHANGES, kafka_options, kafka_topic

try:
    from confluent_kafka import KafkaError, KafkaException, Message, Producer
except ImportError as error:
    raise SettingsError("TANDEM_EVENTS_URL names Kafka, which needs the extra `kafka`") from error

_log = structlog.get_logger()

_MAX_QUEUED: Final = 20_000
"""Messages that librdkafka may hold; a group is at most a few thousand."""
_LINGER_MS: Final = 1
"""Groups come together already; waiting for more would only add to every call."""
_POLL_SECONDS: Final = 0.1
_METADATA_SECONDS: Final = 0.9


class KafkaStream:
    """Appends with one producer, whose reports a thread takes in."""

    def __init__(self, url: str, *, wait_ms: int) -> None:
        """`url` as `streams.kafka_options` takes it. `wait_ms` is the longest time for which a message is tried."""
        self._configuration: dict[str, str | int | bool] = {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": _LINGER_MS,
            "queue.buffering.max.messages": _MAX_QUEUED,
            "message.timeout.ms": wait_ms,
            # It would write lines of its own to the log; what goes wrong comes back with each message.
            "log_level": 0,
            **kafka_options(url),
        }
        self._producer: Producer | None = None
        self._stopping = threading.Event()
        self._reporting: threading.Thread | None = None

    @property
    def backlog(self) -> Mapping[str, int]:
        """Nothing: what a topic keeps is the broker's to say, and readers take nothing off."""
        return {}

    async def append(self, batches: Sequence[Batch]) -> None:
        """Sends all entries and waits for all reports."""
        producer = self._connected()
        num_entries = sum(len(batch.entries) for batch in batches)
        if len(producer) + num_entries > _MAX_QUEUED:
            raise StreamFull(f"{len(producer)} messages wait for Kafka")
        delivery = _Delivery(num_entries)
        try:
            for batch in batches:
                topic = kafka_topic(batch.stream)
                for entry in batch.entries:
                    producer.produce(topic, value=entry.value, key=entry.key, on_delivery=delivery.report)
        except (BufferError, KafkaException) as error:
            raise StreamFailed(repr(error)) from error
        failed = await delivery.ended
        if failed is not None:
            if failed.fatal():
                await self.close()  # this producer is of no more use; the next call makes another
            raise StreamFailed(str(failed))

    async def probe(self) -> None:
        """Asks for the topics, which makes them where the broker makes topics by itself."""
        producer = self._connected()
        for name in (EVENTS, ITEM_CHANGES):
            topic = kafka_topic(name)
            try:
                found = await asyncio.to_thread(producer.list_topics, topic, timeout=_METADATA_SECONDS)
            except KafkaException as error:
                raise StreamFailed(str(error)) from error
            problem = found.topics[topic].error
            if problem is not None:
                raise StreamFailed(f"topic {topic}: {problem.str()}")

    async def close(self) -> None:
        """Ends the producer; messages that are on their way may be lost."""
        producer, self._producer = self._producer, None
        if producer is None or self._reporting is None:
            return
        producer.purge()
        self._stopping.set()
        await asyncio.to_thread(self._reporting.join)

    def _connected(self) -> Producer:
        if self._producer is None:
            self._producer = Producer({**self._configuration, "error_cb": _log_error})
            self._stopping = threading.Event()
            self._reporting = threading.Thread(
                target=_take_reports, args=(self._producer, self._stopping), name="kafka-reports", daemon=True
            )
            self._reporting.start()
        return self._producer


class _Delivery:
    """The reports of one group of messages."""

    def __init__(self, num_messages: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._num_left = num_messages
        self._failed: KafkaError | None = None
        self.ended: asyncio.Future[KafkaError | None] = self._loop.create_future()
        """What went wrong first; None when nothing did."""

    def report(self, error: KafkaError | None, message: Message) -> None:  # noqa: ARG002 - what the producer calls it with
        """Takes in one report, in the thread of reports."""
        self._failed = self._failed or error
        self._num_left -= 1
        if self._num_left == 0:
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(self._failed)


def _take_reports(producer: Producer, stopping: threading.Event) -> None:
    while not stopping.is_set():
        producer.poll(_POLL_SECONDS)


def _log_error(error: KafkaError) -> None:
    _log.debug("kafka_error", reason=error.str())

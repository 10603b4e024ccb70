"""Kafka, for operators who run one already or need more throughput than one store has. The only module of the server
that imports confluent_kafka.

A message is durable once all in-sync replicas have it (`acks=all`); the topic's `min.insync.replicas` sets how many
that must be. The producer is idempotent, so its own retries write no message twice and keep the order of a key.

Kafka takes messages, not calls: when it fails in the middle of a call, a part of the call is in the topic. The caller
gets UNAVAILABLE and repeats the call, and the messages that were there already have no effect a second time, because
feature_sync applies an `event_id` once. Kafka's transactions would hide the part from readers, at the price of a round
trip and a separate producer for each open transaction.
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
"""Messages that librdkafka may queue; a group has at most a few thousand."""
_LINGER_MS: Final = 1
"""Calls are grouped already, so a longer wait for more messages would only delay every call."""
_POLL_SECONDS: Final = 0.1
_METADATA_SECONDS: Final = 0.9


class KafkaStream:
    """Appends with one producer, whose delivery reports a thread polls."""

    def __init__(self, url: str, *, wait_ms: int, streams: Sequence[str] = (EVENTS, ITEM_CHANGES)) -> None:
        """Appends to the topics of `streams`. `url` is in the format of `kafka_options`.

        A message that is not delivered within `wait_ms` fails.
        """
        self._configuration: dict[str, str | int | bool] = {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": _LINGER_MS,
            "queue.buffering.max.messages": _MAX_QUEUED,
            "message.timeout.ms": wait_ms,
            # Without it librdkafka writes lines of its own to the log. Errors come back with each message anyway.
            "log_level": 0,
            **kafka_options(url),
        }
        self._streams = tuple(streams)
        self._producer: Producer | None = None
        self._stopping = threading.Event()
        self._reporting: threading.Thread | None = None

    @property
    def backlog(self) -> Mapping[str, int]:
        """Empty: the broker decides how long a topic keeps messages, and readers remove none."""
        return {}

    async def append(self, batches: Sequence[Batch]) -> None:
        """Sends all entries and waits for all delivery reports."""
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
                await self.close()  # a fatal error ends the producer; the next call makes a new one
            raise StreamFailed(failed.str())

    async def probe(self) -> None:
        """Asks for the topics' metadata, which creates the topics where the broker does so automatically."""
        producer = self._connected()
        for name in self._streams:
            topic = kafka_topic(name)
            try:
                found = await asyncio.to_thread(producer.list_topics, topic, timeout=_METADATA_SECONDS)
            except KafkaException as error:
                raise StreamFailed(error.args[0].str()) from error
            problem = found.topics[topic].error
            if problem is not None:
                raise StreamFailed(f"topic {topic}: {problem.str()}")

    async def close(self) -> None:
        """Closes the producer. Messages that are not delivered yet may be lost."""
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
    """The delivery reports of one group of messages."""

    def __init__(self, num_messages: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._num_left = num_messages
        self._failed: KafkaError | None = None
        self.ended: asyncio.Future[KafkaError | None] = self._loop.create_future()
        """The first error; None if every message was delivered."""

    def report(self, error: KafkaError | None, message: Message) -> None:  # noqa: ARG002 - the producer passes both
        """Counts one report, in the polling thread."""
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

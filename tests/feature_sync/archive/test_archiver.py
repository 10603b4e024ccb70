"""The archive over a real Valkey: files on disk and entries that remain in the store."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis
import structlog

from feature_sync.archive.archiver import Archiver
from feature_sync.archive.day_files import DayFiles, LogId
from feature_sync.archive.tables import (
    EVENT_SCHEMA,
    ITEM_CHANGE_SCHEMA,
    rows_of_user,
    write_entries,
    write_without_user,
)
from feature_sync.store.connection import StoreConnection
from feature_sync.telemetry.metrics import Metrics
from tandem.contract.impressions import Impression
from tandem.contract.streams import (
    ENTRY_FIELD,
    EVENTS,
    IMPRESSIONS,
    ITEM_CHANGES,
    AppliedItemChange,
    Event,
    ItemChange,
    applied_key,
)
from tests.support.small_disk import small_disk
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

DAY_MS = 24 * 3600 * 1000
FIRST_DAY_MS = 20_000 * DAY_MS


def event(number: int) -> Event:
    return Event(
        event_id=f"event-{number}",
        user_id=f"user-{number % 3}",
        item_id="an item",
        type="rating",
        occurred_at=1_000_000 * number,
        received_at=7,
        value=3.5,
        request_id="r",
        position=number,
    )


def add(client: redis.Redis, number: int, milliseconds: int) -> None:
    client.xadd(applied_key(EVENTS), {ENTRY_FIELD: event(number).to_bytes()}, id=f"{milliseconds}-{number}")


@pytest.fixture
def client(store_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(store_url, protocol=2) as client:
        yield client


@contextmanager
def running_archiver(
    url: str, folder: Path, *, stream: str = EVENTS, flush_rows: int = 1000, flush_seconds: float = 0.0
) -> Iterator[Archiver]:
    store = StoreConnection(url)
    archiver = Archiver(
        store,
        stream,
        folder,
        flush_rows=flush_rows,
        flush_seconds=flush_seconds,
        metrics=Metrics().of_archive(stream),
    )
    thread = threading.Thread(target=archiver.run)
    thread.start()
    try:
        yield archiver
    finally:
        archiver.stop()
        thread.join(timeout=30)
        assert not thread.is_alive()
        store.close()


def archive_once(url: str, folder: Path, **arguments: object) -> None:
    """Starts an archiver and stops it; it writes everything before it stops."""
    with running_archiver(url, folder, flush_seconds=3600, **arguments):  # type: ignore[arg-type]
        pass


def event_numbers(folder: Path) -> list[int]:
    files = sorted(folder.glob("day=*/*.parquet"))
    return [position for file in files for position in pq.read_table(file)["position"].to_pylist()]


def test_a_row_has_the_fields_of_its_event(store_url: str, client: redis.Redis, tmp_path: Path) -> None:
    add(client, 4, FIRST_DAY_MS)
    archive_once(store_url, tmp_path)
    (file,) = tmp_path.glob("day=*/*.parquet")
    assert file.relative_to(tmp_path).as_posix() == (
        "day=2024-10-04/001728000000000_000000004-001728000000000_000000004.parquet"
    )
    table = pq.read_table(file)
    assert table.schema.equals(EVENT_SCHEMA)
    assert table.to_pylist() == [
        {
            "event_id": "event-4",
            "user_id": "user-1",
            "item_id": "an item",
            "event_type": "rating",
            "value": 3.5,
            "timestamp": 4_000_000,
            "received_at": 7,
            "request_id": "r",
            "position": 4,
            "currency": "",
        }
    ]
    assert client.xlen(applied_key(EVENTS)) == 0


def impression(number: int) -> Impression:
    return Impression(
        request_id=f"r{number}",
        timestamp=number,
        user_id=f"user-{number}",
        scenario="home",
        model_version="m1",
        variant="champion",
        answer_source="ranked",
        item_ids=["a"],
        sources=["popular"],
        scores=[1.0],
        propensities=[1.0],
        latency_us=900,
    )


def test_files_of_before_currencies_are_read_and_rewritten(tmp_path: Path) -> None:
    write_entries(EVENTS, [event(number).to_bytes() for number in range(4)], tmp_path / "new")
    pq.write_table(pq.read_table(tmp_path / "new").drop_columns(["currency"]), tmp_path / "old")
    assert rows_of_user(tmp_path / "old", "user-1") == rows_of_user(tmp_path / "new", "user-1")
    write_without_user(tmp_path / "old", tmp_path / "rewritten", "user-0", until=1 << 60)
    assert pq.read_table(tmp_path / "rewritten").column("currency").to_pylist() == ["", ""]


def test_files_of_impressions_without_latencies_are_read_and_rewritten(tmp_path: Path) -> None:
    shown = [impression(number) for number in range(3)]
    write_entries(IMPRESSIONS, [one.to_bytes() for one in shown], tmp_path / "new")
    pq.write_table(pq.read_table(tmp_path / "new").drop_columns(["latency_us"]), tmp_path / "old")
    (row,) = rows_of_user(tmp_path / "old", "user-1", stream=IMPRESSIONS)
    assert (row["request_id"], row["latency_us"]) == ("r1", None)
    write_without_user(tmp_path / "old", tmp_path / "rewritten", "user-0", until=1 << 60, stream=IMPRESSIONS)
    assert pq.read_table(tmp_path / "rewritten").column("latency_us").to_pylist() == [None, None]


def test_item_changes(store_url: str, client: redis.Redis, tmp_path: Path) -> None:
    change = ItemChange(
        item_id="i", changed_at=9, title="T", description="D", categories=("a", "b"), attributes={"year": "1999"}
    )
    for sequence, entry in enumerate([change, ItemChange(item_id="j", changed_at=10, deleted=True)], start=1):
        applied = AppliedItemChange(sequence=sequence, slot=sequence - 1, change=entry)
        client.xadd(applied_key(ITEM_CHANGES), {ENTRY_FIELD: applied.to_bytes()})
    archive_once(store_url, tmp_path, stream=ITEM_CHANGES)
    (file,) = tmp_path.glob("day=*/*.parquet")
    table = pq.read_table(file)
    assert table.schema.equals(ITEM_CHANGE_SCHEMA)
    first, second = table.to_pylist()
    assert (first["categories"], first["attributes"], first["sequence"]) == (["a", "b"], [("year", "1999")], 1)
    assert (second["deleted"], second["slot"], second["categories"]) == (True, 1, [])


def test_files_end_at_midnight_and_at_their_size(store_url: str, client: redis.Redis, tmp_path: Path) -> None:
    for number in range(10):
        add(client, number, FIRST_DAY_MS + (DAY_MS - 5) + number)
    archive_once(store_url, tmp_path, flush_rows=4)
    days = {day.name: len(list(day.iterdir())) for day in tmp_path.glob("day=*")}
    assert days == {"day=2024-10-04": 2, "day=2024-10-05": 2}
    assert event_numbers(tmp_path) == list(range(10))


def test_writes_when_a_file_is_full_or_an_entry_is_old(store_url: str, client: redis.Redis, tmp_path: Path) -> None:
    with running_archiver(store_url, tmp_path, flush_rows=3, flush_seconds=3600):
        client.xadd(applied_key(EVENTS), {ENTRY_FIELD: event(0).to_bytes()})
        client.xadd(applied_key(EVENTS), {ENTRY_FIELD: event(1).to_bytes()})
        assert event_numbers(tmp_path) == []
        client.xadd(applied_key(EVENTS), {ENTRY_FIELD: event(2).to_bytes()})
        wait_until(lambda: event_numbers(tmp_path) == [0, 1, 2], "three rows fill a file")
    with running_archiver(store_url, tmp_path, flush_rows=3, flush_seconds=0.1):
        client.xadd(applied_key(EVENTS), {ENTRY_FIELD: event(3).to_bytes()})
        wait_until(lambda: event_numbers(tmp_path) == [0, 1, 2, 3], "the entry has waited for flush_seconds")


def test_a_kill_between_the_rename_and_the_trim_repeats_nothing(
    store_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    for number in range(6):
        add(client, number, FIRST_DAY_MS + number)
    files = DayFiles(tmp_path)
    assert files.try_lock()
    files.add(
        LogId(FIRST_DAY_MS, 0),
        LogId(FIRST_DAY_MS + 3, 3),
        lambda path: write_entries(EVENTS, [event(number).to_bytes() for number in range(4)], path),
    )
    (tmp_path / ".unfinished").write_bytes(b"half a file")
    files.unlock()
    archive_once(store_url, tmp_path)
    assert event_numbers(tmp_path) == list(range(6))
    assert client.xlen(applied_key(EVENTS)) == 0


def _archive_event(folder: Path, milliseconds: int) -> None:
    """Writes an archive whose only event is event 0, logged at `milliseconds`."""
    files = DayFiles(folder)
    assert files.try_lock()
    position = LogId(milliseconds, 7)
    files.add(position, position, lambda path: write_entries(EVENTS, [event(0).to_bytes()], path))
    files.unlock()


@pytest.mark.parametrize("exists_before", [True, False], ids=["log exists before", "log made meanwhile"])
def test_a_store_that_was_emptied_and_whose_clock_is_behind_loses_nothing(
    store_url: str, client: redis.Redis, tmp_path: Path, exists_before: bool
) -> None:
    ahead_ms = int(time.time() * 1000) + DAY_MS
    _archive_event(tmp_path, ahead_ms)
    numbers = range(1, 4)
    if exists_before:
        for number in numbers:
            client.xadd(applied_key(EVENTS), {ENTRY_FIELD: event(number).to_bytes()})
    with running_archiver(store_url, tmp_path):
        if not exists_before:
            wait_until(lambda: bool(client.exists(applied_key(EVENTS))), "the log is created")
            for number in numbers:
                client.xadd(applied_key(EVENTS), {ENTRY_FIELD: event(number).to_bytes()})
        wait_until(lambda: len(event_numbers(tmp_path)) == 4, "all are archived")
        client.xadd(applied_key(EVENTS), {ENTRY_FIELD: event(4).to_bytes()})
    assert event_numbers(tmp_path) == [0, 1, 2, 3, 4]
    assert client.xlen(applied_key(EVENTS)) == 0
    newest = StoreConnection(store_url).call("XINFO", "STREAM", applied_key(EVENTS))
    assert dict(zip(newest[::2], newest[1::2], strict=True))[b"last-generated-id"] == f"{ahead_ms}-11".encode()


def test_a_single_archiver_writes_at_a_time(store_url: str, client: redis.Redis, tmp_path: Path) -> None:
    with running_archiver(store_url, tmp_path) as first, running_archiver(store_url, tmp_path):
        add(client, 0, FIRST_DAY_MS)
        wait_until(lambda: event_numbers(tmp_path) == [0], "one archiver writes")
        first.stop()
        add(client, 1, FIRST_DAY_MS + 1)
        wait_until(lambda: event_numbers(tmp_path) == [0, 1], "the other archiver takes over")


def test_a_full_disk_and_a_folder_that_is_gone_cost_no_entry(
    store_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", kibibytes=64) as disk, structlog.testing.capture_logs() as logs:
        archive, ballast = disk / "events", disk / "ballast"
        archive.mkdir()
        ballast.write_bytes(bytes(60 << 10))
        for number in range(300):
            add(client, number, FIRST_DAY_MS + number)
        with running_archiver(store_url, archive):
            wait_until(lambda: bool(logs), "the archiver has tried")
            assert (event_numbers(archive), client.xlen(applied_key(EVENTS))) == ([], 300)
            ballast.unlink()
            wait_until(lambda: event_numbers(archive) == list(range(300)), "the archiver has written the file")
            shutil.rmtree(archive)
            add(client, 300, FIRST_DAY_MS + 300)
            wait_until(lambda: len(_waits(logs)) == 2, "the archiver has tried again")
            archive.mkdir()
            wait_until(lambda: event_numbers(archive) == [300], "the archiver goes on behind its position")
    assert "No space left on device; free some space" in _waits(logs)[0]
    assert _waits(logs)[1].endswith("No such file or directory")


def _waits(logs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [line["error"] for line in logs if line["event"] == "archive_waits"]


def test_waits_while_the_disk_cannot_be_written(store_url: str, client: redis.Redis, tmp_path: Path) -> None:
    obstacle = tmp_path / "day=2024-10-04"
    obstacle.write_bytes(b"")
    add(client, 0, FIRST_DAY_MS)
    with running_archiver(store_url, tmp_path):
        wait_until(lambda: (tmp_path / ".unfinished").exists(), "the archiver has tried")
        assert client.xlen(applied_key(EVENTS)) == 1
        obstacle.unlink()
        wait_until(lambda: event_numbers(tmp_path) == [0], "the archiver has written the file")
    assert client.xlen(applied_key(EVENTS)) == 0

"""Appending for many callers at once, to a real Valkey: groups, refusals, deadlines, and what a crash leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from inference_server.core.errors import OverCapacity, StreamUnavailable
from inference_server.events.group_commit import MAX_GROUP_ENTRIES, MAX_WAITING_ENTRIES, GroupCommit
from inference_server.events.redis_stream import RedisStream
from inference_server.events.stream import Batch, Entry
from inference_server.telemetry.statistics import Statistics
from tandem.contract.streams import ENTRY_FIELD, EVENTS, stream_key
from tests.support.serving import PATIENCE_SECONDS, Valkey, valkey, wait_until

pytestmark = pytest.mark.process

KEY = stream_key(EVENTS)


@dataclass(frozen=True)
class Appending:
    commit: GroupCommit
    statistics: Statistics
    store: Valkey

    async def length(self) -> int:
        async with self.store.client() as client:
            return int(await client.xlen(KEY))

    async def until_up(self) -> None:
        await wait_until(lambda: self.statistics.dependencies_up["events"], "the stream is up")


@asynccontextmanager
async def appending(folder: Path, *, max_backlog: int = 1_000_000) -> AsyncIterator[Appending]:
    async with valkey(folder) as store:
        statistics = Statistics()
        commit = GroupCommit(RedisStream(store.url, fsync=True, wait_ms=1000), statistics, max_backlog=max_backlog)
        await commit.start()
        made = Appending(commit, statistics, store)
        await made.until_up()
        try:
            yield made
        finally:
            await commit.close()


def batch(number: int, count: int = 1) -> Batch:
    return Batch(EVENTS, [Entry(b"u", b"%d/%d" % (number, position)) for position in range(count)])


async def test_calls_that_wait_share_a_transaction(tmp_path: Path) -> None:
    async with appending(tmp_path) as made:
        async with made.store.client() as client:
            await client.config_resetstat()
            await asyncio.gather(*(made.commit.append(batch(number), PATIENCE_SECONDS) for number in range(200)))
            stats = await client.info("commandstats")
        assert stats["cmdstat_xadd"]["calls"] == 200
        assert stats["cmdstat_exec"]["calls"] <= 2


async def test_a_group_has_a_bound(tmp_path: Path) -> None:
    async with appending(tmp_path) as made, made.store.client() as client:
        await client.config_resetstat()
        calls = [made.commit.append(batch(number, 400), PATIENCE_SECONDS) for number in range(10)]
        await asyncio.gather(*calls)
        assert (await client.info("commandstats"))["cmdstat_exec"]["calls"] == 10 // (MAX_GROUP_ENTRIES // 400)
        assert await made.length() == 4000


async def test_a_full_stream_refuses_until_there_is_room(tmp_path: Path) -> None:
    async with appending(tmp_path, max_backlog=10) as made:
        await made.commit.append(batch(0, 10), PATIENCE_SECONDS)
        with pytest.raises(OverCapacity) as caught:
            await made.commit.append(batch(1), PATIENCE_SECONDS)
        assert caught.value.retry_after_seconds > 0
        assert await made.length() == 10, "nothing is dropped, and nothing is added"
        assert made.statistics.writes_refused == {"backlog": 1}
        assert made.statistics.stream_backlog[EVENTS] == 10
        async with made.store.client() as client:
            await client.xtrim(KEY, maxlen=3, approximate=False)

        async def taken() -> bool:
            try:
                await made.commit.append(batch(2), PATIENCE_SECONDS)
            except OverCapacity:
                return False
            return True

        await wait_until(taken, "there is room again")


async def test_a_store_without_memory_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    async with appending(tmp_path) as made, made.store.client() as client:
        await made.commit.append(batch(0, 5), PATIENCE_SECONDS)
        await client.config_set("maxmemory", 1)
        for number in (1, 2):
            with pytest.raises(OverCapacity, match="memory"):
                await made.commit.append(batch(number, 5), PATIENCE_SECONDS)
        await client.config_set("maxmemory", 0)
        await made.commit.append(batch(3, 5), PATIENCE_SECONDS)
        assert await made.length() == 10
        await wait_until(lambda: made.statistics.dependencies_up["events"], "a second later, the stream is up again")


async def test_too_many_who_wait_are_refused_at_once(tmp_path: Path) -> None:
    async with appending(tmp_path) as made:
        made.store.pause()
        calls = [
            asyncio.ensure_future(made.commit.append(batch(number, 1000), PATIENCE_SECONDS))
            for number in range(MAX_WAITING_ENTRIES // 1000 + 3)
        ]
        await wait_until(lambda: any(call.done() for call in calls), "one is refused")
        made.store.resume()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, OverCapacity)]
        assert len(refused) + sum(outcome is None for outcome in outcomes) == len(outcomes)
        assert 1 <= len(refused) <= 3
        assert await made.length() == 1000 * (len(calls) - len(refused))


async def test_a_store_that_hangs_is_told_within_the_callers_time(tmp_path: Path) -> None:
    async with appending(tmp_path) as made:
        made.store.pause()
        started = time.monotonic()
        with pytest.raises(StreamUnavailable):
            await made.commit.append(batch(0), 0.2)
        assert time.monotonic() - started < 10
        await wait_until(lambda: made.statistics.breakers["events"] != "closed", "the breaker opens")
        made.store.resume()
        await made.until_up()

        async def taken() -> bool:
            try:
                await made.commit.append(batch(1), PATIENCE_SECONDS)
            except StreamUnavailable:
                return False
            return True

        await wait_until(taken, "it is of use again")


async def test_a_caller_who_went_before_its_group_records_nothing(tmp_path: Path) -> None:
    async with appending(tmp_path) as made:
        made.store.pause()
        first = asyncio.ensure_future(made.commit.append(batch(0), PATIENCE_SECONDS))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone = asyncio.ensure_future(made.commit.append(batch(1, 500), PATIENCE_SECONDS))
        await asyncio.sleep(0)
        gone.cancel()
        made.store.resume()
        await first
        await made.commit.append(batch(2), PATIENCE_SECONDS)
        assert await made.length() == 2


async def test_a_crash_leaves_whole_calls_and_all_that_were_acknowledged(tmp_path: Path) -> None:
    calls, size = 300, 50
    async with appending(tmp_path) as made:
        acknowledged: set[int] = set()

        async def record(number: int) -> None:
            try:
                await made.commit.append(batch(number, size), 5.0)
            except (StreamUnavailable, OverCapacity):
                return
            acknowledged.add(number)

        async def record_all() -> None:
            for first in range(0, calls, 30):
                await asyncio.gather(*(record(number) for number in range(first, first + 30)))

        recording = asyncio.create_task(record_all())
        await wait_until(lambda: len(acknowledged) > 60, "some are acknowledged")
        await made.store.kill()
        await recording
        assert len(acknowledged) < calls, "the crash was in the middle"
        await made.store.start()
        async with made.store.client() as client:
            values = [fields[ENTRY_FIELD] for _, fields in await client.xrange(KEY)]
        positions_by_call: dict[int, list[int]] = {}
        for value in values:
            number, position = value.split(b"/")
            positions_by_call.setdefault(int(number), []).append(int(position))
        assert acknowledged <= positions_by_call.keys(), "no acknowledged call is lost"
        assert all(found == list(range(size)) for found in positions_by_call.values()), "no call is stored in part"
        await made.until_up()


@pytest.mark.parametrize(("appendonly", "appendfsync"), [("yes", "everysec"), ("no", "always")])
async def test_a_store_that_may_lose_what_it_acknowledged_is_refused_unless_that_is_accepted(
    tmp_path: Path, appendonly: str, appendfsync: str
) -> None:
    async with valkey(tmp_path) as store:
        async with store.client() as client:
            await client.config_set("appendonly", appendonly)
            await client.config_set("appendfsync", appendfsync)
        for fsync in (True, False):
            statistics = Statistics()
            commit = GroupCommit(RedisStream(store.url, fsync=fsync, wait_ms=1000), statistics, max_backlog=1000)
            await commit.start()
            if fsync:
                with pytest.raises(StreamUnavailable):
                    await commit.append(batch(0), PATIENCE_SECONDS)
                assert not statistics.dependencies_up["events"]
            else:
                await commit.append(batch(1), PATIENCE_SECONDS)
                assert statistics.dependencies_up["events"]
            await commit.close()
        async with store.client() as client:
            assert await client.xlen(KEY) == 1


async def test_a_server_that_hides_its_configuration_is_asked_for_the_disk(tmp_path: Path) -> None:
    async with valkey(tmp_path) as store, store.client() as client:
        await client.execute_command("ACL", "SETUSER", "default", "-config")
        commit = GroupCommit(RedisStream(store.url, fsync=True, wait_ms=1000), Statistics(), max_backlog=1000)
        await commit.start()
        await commit.append(batch(0), PATIENCE_SECONDS)
        assert (await client.info("commandstats"))["cmdstat_waitaof"]["calls"] == 1
        await commit.close()

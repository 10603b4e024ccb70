"""Impressions on their way to their stream: what is appended, and what happens while there is no stream."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from inference_server.events import impression_stream
from inference_server.events.impression_stream import ImpressionStream
from inference_server.events.redis_stream import RedisStream
from inference_server.telemetry.statistics import Statistics
from tandem.contract.bundle import Bundle
from tandem.contract.impressions import Impression
from tandem.contract.streams import ENTRY_FIELD, IMPRESSIONS, stream_key
from tests.inference_server.in_process import no_store
from tests.support.serving import PATIENCE_SECONDS, Valkey, serve, valkey, wait_until
from tests.tandem.contract.test_impressions import IMPRESSION

pytestmark = pytest.mark.process


def impressions(count: int, first: int = 0) -> list[Impression]:
    return [dataclasses.replace(IMPRESSION, request_id=f"r{first + number}") for number in range(count)]


def ids(found: list[Impression]) -> list[str]:
    return [impression.request_id for impression in found]


async def appended(store: Valkey) -> list[Impression]:
    """The impressions in the stream, oldest first."""
    async with store.client() as client:
        entries = await client.xrange(stream_key(IMPRESSIONS))
    return [Impression.from_bytes(fields[ENTRY_FIELD]) for _, fields in entries]


def stream_to(url: str, *, max_backlog: int = 1_000_000) -> tuple[ImpressionStream, Statistics]:
    statistics = Statistics()
    redis_stream = RedisStream(url, fsync=True, wait_ms=1000, streams=[IMPRESSIONS])
    return ImpressionStream(redis_stream, statistics, max_backlog=max_backlog), statistics


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path / "store") as running:
        yield running


async def test_what_is_written_is_appended_in_order_before_the_end(store: Valkey) -> None:
    stream, statistics = stream_to(store.url)
    await stream.start()
    written = impressions(600)
    stream.write(written[:1])
    stream.write(written[1:])
    await stream.close(timeout_seconds=PATIENCE_SECONDS)
    assert await appended(store) == written
    assert stream.num_dropped == 0
    assert statistics.stream_backlog == {IMPRESSIONS: 600}


async def test_what_a_stopped_store_did_not_take_is_appended_when_it_is_back(store: Valkey) -> None:
    stream, _ = stream_to(store.url)
    with structlog.testing.capture_logs() as logs:
        await stream.start()
        stream.write(impressions(1))
        await wait_until(lambda: _holds(store, 1), "the first is appended")
        await store.kill()
        stream.write(impressions(10, first=1))
        await wait_until(lambda: bool(logs), "the outage is logged")
        await store.start()
        await wait_until(lambda: _holds(store, 11), "the others are appended")
        await stream.close(timeout_seconds=PATIENCE_SECONDS)
    assert list(dict.fromkeys(ids(await appended(store)))) == ids(impressions(11))
    assert stream.num_dropped == 0
    assert [line["event"] for line in logs] == ["impressions_not_appended", "impressions_appended_again"]


async def _holds(store: Valkey, count: int) -> bool:
    return len(await appended(store)) >= count


async def test_what_finds_no_room_or_no_stream_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impression_stream, "MAX_WAITING", 100)
    stream, _ = stream_to(no_store())
    await stream.start()
    stream.write(impressions(90))
    stream.write(impressions(30))
    assert stream.num_dropped == 20
    await stream.close(timeout_seconds=0.2)
    assert stream.num_dropped == 120


async def test_what_no_stream_takes_for_long_makes_room_for_newer_impressions(
    store: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impression_stream, "_MAX_RETRY_SECONDS", 0.2)
    await store.kill()
    stream, _ = stream_to(store.url)
    await stream.start()
    stream.write(impressions(3))
    await wait_until(lambda: stream.num_dropped == 3, "they are given up")
    await store.start()
    stream.write(impressions(1, first=3))
    await wait_until(lambda: _holds(store, 1), "the next is appended")
    await stream.close(timeout_seconds=PATIENCE_SECONDS)
    assert ids(await appended(store)) == ["r3"]


async def test_a_stream_that_nobody_reads_stops_growing_and_goes_on_once_it_is_read(
    store: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impression_stream, "_MAX_GROUP", 5)
    stream, _ = stream_to(store.url, max_backlog=10)
    with structlog.testing.capture_logs() as logs:
        await stream.start()
        stream.write(impressions(20))
        await wait_until(lambda: bool(logs), "the full stream is logged")
        assert len(await appended(store)) == 10
        assert "TANDEM_IMPRESSIONS_MAX_BACKLOG" in logs[0]["reason"]
        async with store.client() as client:
            await client.xtrim(stream_key(IMPRESSIONS), maxlen=0)
        await wait_until(lambda: _holds(store, 10), "the others are appended")
        await stream.close(timeout_seconds=PATIENCE_SECONDS)
    assert ids(await appended(store)) == ids(impressions(10, first=10))


async def test_a_store_without_memory_takes_none_and_all_once_it_has_room(store: Valkey) -> None:
    stream, _ = stream_to(store.url)
    async with store.client() as client:
        await client.config_set("maxmemory", "1")
        with structlog.testing.capture_logs() as logs:
            await stream.start()
            stream.write(impressions(5))
            await wait_until(lambda: bool(logs), "the full store is logged")
            assert await appended(store) == []
            await client.config_set("maxmemory", "0")
            await wait_until(lambda: _holds(store, 5), "they are appended")
            await stream.close(timeout_seconds=PATIENCE_SECONDS)
    assert await appended(store) == impressions(5)
    assert "memory" in logs[0]["reason"]


async def test_what_cannot_be_packed_is_counted_and_spoils_no_other(store: Valkey) -> None:
    stream, _ = stream_to(store.url)
    await stream.start()
    stream.write([dataclasses.replace(IMPRESSION, user_id="\ud800"), dataclasses.replace(IMPRESSION, scores=())])
    stream.write(impressions(1))
    await stream.close(timeout_seconds=PATIENCE_SECONDS)
    assert ids(await appended(store)) == ["r0"]
    assert stream.num_dropped == 2


async def test_a_server_records_what_it_answered(store: Valkey, bundle: Bundle, tmp_path: Path) -> None:
    policies = tmp_path / "policies.yaml"
    policies.write_text("scenarios: {home: {exploration: 0.5}}\n")
    log = tmp_path / "impressions.jsonl"
    async with serve(
        tmp_path / "server",
        bundle_path=bundle.directory,
        store_url=store.url,
        impressions="stream",
        impression_log=log,
        policies_file=policies,
    ) as server:
        context = {"placement": "top", "device": "phone"}
        query = {"user_id": "u1", "num_items": 3, "scenario": "home", "context": context}
        first = await server.recommend(**query)
        second = await server.recommend(**query, page_token=first.next_page_token)
        third = await server.recommend(num_items=1)
        fingerprint = (await server.status()).policies_fingerprint
        metrics = await server.metrics()
        await server.stop()  # which appends what waits
    found = {impression.request_id: impression for impression in await appended(store)}
    assert list(found) == [first.request_id, second.request_id, third.request_id]
    shown = found[first.request_id]
    assert (shown.user_id, shown.scenario, shown.placement, dict(shown.context)) == ("u1", "home", "top", context)
    assert list(shown.item_ids) == [item.item_id for item in first.items]
    assert list(shown.scores) == pytest.approx([item.score for item in first.items])
    assert shown.model_version == first.model_version
    assert shown.policy_fingerprint == fingerprint
    assert shown.answer_source in {"ranked", "retrieved", "popular"}
    assert all(0 < propensity <= 1 for propensity in shown.propensities)
    assert len(shown.sources) == 3
    assert found[second.request_id].first_position == 3
    assert (found[third.request_id].user_id, found[third.request_id].placement) == ("", "")
    assert 'tandem_dropped_total{what="impressions"} 0.0' in metrics
    written = log.with_name(f"{log.name}.worker-1")
    lines = [json.loads(line) for line in (await asyncio.to_thread(written.read_text)).splitlines()]
    assert [line["request_id"] for line in lines] == list(found)

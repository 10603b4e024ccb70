"""A store that refuses, is a replica, was emptied or evicts: the server says so in status, log, metrics and answers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from deploy.local.ports import free_port
from inference_server.api.serving_status import serving_status
from inference_server.core.degradation import Degraded
from inference_server.core.errors import OverCapacity, StreamUnavailable
from inference_server.events.group_commit import GroupCommit
from inference_server.events.redis_stream import RedisStream
from inference_server.events.stream import Batch, Entry
from inference_server.model.serving_model import ModelSlot
from inference_server.store.user_store import StoreFailed, UserStore
from inference_server.telemetry.statistics import Statistics
from tandem.contract.store import populated_key
from tandem.contract.streams import EVENTS, stream_key
from tests.support.serving import wait_until
from tests.support.stores import PASSWORD, busy, client_of, http_server, tls_in_front_of, valkey_with

pytestmark = pytest.mark.process

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
BATCH = Batch(EVENTS, [Entry(b"u", b"an event")])


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The server's two users of a store."""

    store: UserStore
    commit: GroupCommit
    statistics: Statistics

    @property
    def problems(self) -> dict[str, str]:
        """As GetServingStatus shows them."""
        return dict(serving_status(self.statistics, ModelSlot()).problems)

    async def until_down(self, words: str, *names: str) -> None:
        """Waits until the dependencies are down, with these words in the status."""

        def is_down() -> bool:
            up = self.statistics.dependencies_up
            return all(not up[name] and words in self.problems.get(name, "") for name in names)

        await wait_until(is_down, f"{names} are down because {words}")

    async def until_up(self, *names: str) -> None:
        await wait_until(lambda: all(self.statistics.dependencies_up[name] for name in names), f"{names} are up")

    async def read(self) -> list[bytes | None]:
        return await self.store.read([b"tandem/1/state/u"], 5.0)


@asynccontextmanager
async def parts_of(url: str, *, num_replicas: int = 0) -> AsyncIterator[Parts]:
    statistics = Statistics()
    store = UserStore(url, statistics)
    stream = RedisStream(url, fsync=True, wait_ms=1000, num_replicas=num_replicas, replicas_wait_ms=1000)
    commit = GroupCommit(stream, statistics, max_backlog=1000)
    await store.start()
    await commit.start()
    try:
        yield Parts(store=store, commit=commit, statistics=statistics)
    finally:
        await commit.close()
        await store.close()


async def test_what_refuses_is_named_in_status_log_and_error(tmp_path: Path) -> None:
    with (
        valkey_with(tmp_path / "plain", *DURABLE) as plain,
        valkey_with(tmp_path / "protected", *DURABLE, "--requirepass", PASSWORD) as protected,
        tls_in_front_of(plain, tmp_path / "tls") as (tls, _),
        http_server() as http,
        structlog.testing.capture_logs() as logs,
    ):
        for url, words in (
            (f"redis://127.0.0.1:{protected}/0", "NOAUTH Authentication required."),
            (f"redis://:not-{PASSWORD}@127.0.0.1:{protected}/0", "WRONGPASS invalid username-password pair"),
            (f"redis://:{PASSWORD}@127.0.0.1:{plain}/0", "called without any password configured"),
            (f"redis://127.0.0.1:{plain}/99", "ERR DB index is out of range"),
            (f"redis://127.0.0.1:{http}/0", "what listens there is an HTTP server, not a Redis or Valkey"),
            (f"redis://127.0.0.1:{tls}/0", "the server speaks TLS: begin the address with rediss://"),
            (f"rediss://127.0.0.1:{plain}/0", "the server speaks no TLS: begin the address with redis://"),
        ):
            async with parts_of(url) as parts:
                await parts.until_down(words, "store", "events")
                with pytest.raises(StreamUnavailable) as failure:
                    await parts.commit.append(BATCH, 5.0)
                assert words in str(failure.value)
            for name in ("store_down", "events_down"):
                assert any(line["event"] == name and words in line["reason"] for line in logs), (name, words, logs)
        assert PASSWORD not in str(logs)


async def test_a_store_that_greets_with_a_refusal_and_hangs_up(tmp_path: Path) -> None:
    with valkey_with(tmp_path, *DURABLE) as port, client_of(port) as client:
        client.config_set("maxclients", 1)
        async with parts_of(f"redis://127.0.0.1:{port}/0") as parts:
            await parts.until_down("ERR max number of clients reached", "store", "events")
            client.config_set("maxclients", 100)
            await parts.until_up("store", "events")
            assert "events" not in parts.problems


async def test_a_busy_store_is_named(tmp_path: Path) -> None:
    with valkey_with(tmp_path, *DURABLE, "--busy-reply-threshold", "50") as port:
        async with parts_of(f"redis://127.0.0.1:{port}/0") as parts:
            await parts.until_up("store", "events")
            await asyncio.to_thread(busy, port)
            await parts.until_down("BUSY ", "store", "events")
            with client_of(port) as client:
                client.script_kill()
            await parts.until_up("store", "events")


async def test_events_are_down_while_nothing_can_be_written_even_if_nobody_writes(tmp_path: Path) -> None:
    with valkey_with(tmp_path, *DURABLE) as port, client_of(port) as client:
        client.set(populated_key(), b"a test")
        async with parts_of(f"redis://127.0.0.1:{port}/0") as parts:
            await parts.until_up("store", "events")
            size_before = client.info("persistence")["aof_current_size"]

            client.config_set("maxmemory", 1)
            await parts.until_down("OOM command not allowed when used memory > 'maxmemory'", "events")
            assert parts.statistics.dependencies_up["store"], "the store can still be read"
            with pytest.raises(OverCapacity, match="OOM command not allowed"):
                await parts.commit.append(BATCH, 5.0)
            assert not parts.statistics.dependencies_up["events"]
            client.config_set("maxmemory", 0)
            await parts.until_up("events")

            client.config_set("min-replicas-to-write", 1)
            await parts.until_down("NOREPLICAS Not enough good replicas to write.", "events")
            with pytest.raises(StreamUnavailable, match="NOREPLICAS"):
                await parts.commit.append(BATCH, 5.0)
            client.config_set("min-replicas-to-write", 0)
            await parts.until_up("events")

            assert client.info("persistence")["aof_current_size"] == size_before, "a probe writes nothing"
            await parts.commit.append(BATCH, 5.0)
            assert client.xlen(stream_key(EVENTS)) == 1


async def test_a_store_that_becomes_a_replica_is_left_and_used_again_once_it_is_the_master(tmp_path: Path) -> None:
    with (
        valkey_with(tmp_path / "a", *DURABLE) as port,
        valkey_with(tmp_path / "b") as other,
        client_of(port) as client,
    ):
        client.mset({populated_key(): b"a test", b"tandem/1/state/u": b"state"})
        async with parts_of(f"redis://127.0.0.1:{port}/0") as parts:
            await parts.until_up("store", "events")
            assert await parts.read() == [b"state"]
            client.replicaof("127.0.0.1", str(other))
            await parts.until_down(f"it is a replica of 127.0.0.1:{other} (role:slave)", "store", "events")
            with pytest.raises(StoreFailed) as failure:
                await parts.read()
            assert failure.value.reason is Degraded.STORE_UNAVAILABLE
            with pytest.raises(StreamUnavailable, match="it is a replica of"):
                await parts.commit.append(BATCH, 5.0)
            client.replicaof("NO", "ONE")
            await parts.until_up("store", "events")
            await parts.commit.append(BATCH, 5.0)
            await parts.read()


async def test_acknowledgements_wait_for_replicas(tmp_path: Path) -> None:
    with valkey_with(tmp_path / "a", *DURABLE) as port, client_of(port) as client:
        async with parts_of(f"redis://127.0.0.1:{port}/0", num_replicas=1) as parts:
            await parts.until_down("0 of 1 replicas are connected, for which TANDEM_EVENTS_WAIT_REPLICAS", "events")
            with pytest.raises(StreamUnavailable, match="0 of 1 replicas"):
                await parts.commit.append(BATCH, 5.0)
            with valkey_with(tmp_path / "b", "--replicaof", f"127.0.0.1 {port}") as replica:
                await parts.until_up("events")
                await parts.commit.append(BATCH, 5.0)
                num_entries = client.xlen(stream_key(EVENTS))
                with client_of(replica) as follower:
                    assert follower.xlen(stream_key(EVENTS)) == num_entries, "what is acknowledged is on the replica"
            with pytest.raises(StreamUnavailable, match="of 1 replicas"):
                await parts.commit.append(BATCH, 5.0)


async def test_a_store_without_published_states_and_one_that_evicts(tmp_path: Path) -> None:
    with (
        valkey_with(tmp_path, *DURABLE) as port,
        client_of(port) as client,
        structlog.testing.capture_logs() as logs,
    ):
        client.set(populated_key(), b"a test")
        async with parts_of(f"redis://127.0.0.1:{port}/0") as parts:
            await parts.until_up("store", "events")
            assert parts.store.absence is None
            assert parts.problems == {}
            client.flushall()
            await wait_until(lambda: parts.store.absence is Degraded.STORE_EMPTY, "the store is found to be empty")
            await wait_until(lambda: "it holds no published states" in parts.problems.get("store", ""), "it is named")
            assert parts.statistics.store_empty == 1
            assert parts.statistics.dependencies_up["store"]
            assert any("no published states" in line.get("warning", "") for line in logs)

            client.set(populated_key(), b"a test")
            client.config_set("maxmemory-policy", "allkeys-lru")
            await wait_until(
                lambda: "maxmemory-policy is allkeys-lru" in parts.problems.get("store", ""), "it is named"
            )
            assert parts.store.absence is None, "nothing was evicted yet"
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
            for number in range(1000):
                client.set(f"other/{number}", b"x" * 1000)
                client.get(populated_key())
            await wait_until(lambda: parts.store.absence is not None, "keys were evicted")
            client.config_set("maxmemory", 0)
            client.set(populated_key(), b"a test")
            await wait_until(lambda: parts.store.absence is Degraded.STORE_EVICTS, "the evictions are remembered")


@pytest.mark.parametrize("program", ["inference_server serve", "feature_sync run"])
def test_a_cluster_and_a_sentinel_are_refused_at_the_start(tmp_path: Path, program: str) -> None:
    def stderr_of(url: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *program.split()],
            env={**os.environ, "TANDEM_STORE_URL": url, "TANDEM_DATA_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert PASSWORD not in done.stderr
        return done.stderr

    with valkey_with(tmp_path / "cluster", "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as port:
        assert "TANDEM_STORE_URL: redis://127.0.0.1:" in (said := stderr_of(f"redis://127.0.0.1:{port}/0"))
        assert "it is a Redis Cluster (cluster_enabled:1)" in said
    folder = tmp_path / "sentinel"
    folder.mkdir()
    (folder / "sentinel.conf").write_text("sentinel monitor main 127.0.0.1 1 1\n")
    with valkey_with(folder, "--sentinel", first=str(folder / "sentinel.conf")) as port:
        assert "it is a Sentinel, which holds no data" in stderr_of(f"redis://127.0.0.1:{port}/0")
    assert "TANDEM_STORE_URL: names a Sentinel" in stderr_of(f"redis+sentinel://:{PASSWORD}@127.0.0.1:1/main")

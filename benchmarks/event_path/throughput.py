"""Events per second that one `feature_sync run` on one core applies, and the store's memory per remembered event id."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import redis.asyncio

from benchmarks.environment.machine import load_cores, on_served_core
from feature_sync.events.marks import EventMarks, mark_of
from tandem.contract import names
from tandem.contract.store import UserState, user_state_key
from tandem.contract.streams import ENTRY_FIELD, EVENTS, Event, stream_key
from tandem.contract.vocabulary import id_keys
from tests.support.serving import Valkey, wait_until

_NUM_USERS: Final = 20_000
_NUM_ITEMS: Final = 20_000
_HISTORY: Final = 50
_SHARES: Final = {"impression": 0.70, "click": 0.22, "add_to_cart": 0.04, "purchase": 0.02, "rating": 0.02}
_CHUNK: Final = 1_000
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PATIENCE_SECONDS: Final = 600.0


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Applying one backlog of events."""

    num_events: int
    seconds: float
    """From the first event applied to the last."""
    cpu_seconds: float
    """Of the process, including its start."""

    @property
    def events_per_second(self) -> float:
        """Events applied per second of wall time."""
        return self.num_events / self.seconds


@asynccontextmanager
async def feature_sync(folder: Path, store_url: str, **settings: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs `feature_sync run` with these settings during the block; it must then exit with status 0 on SIGTERM."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    variables = {"store_url": store_url, "data_dir": folder, "sync_metrics_port": 0, "log_level": "warning", **settings}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "feature_sync", "run"),
        env={**os.environ, **{f"TANDEM_{name.upper()}": str(value) for name, value in variables.items()}},
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def throughput(store: Valkey, folder: Path, *, num_events: int) -> Throughput:
    """Has one process apply a backlog of new events. Each of the 20,000 users has a history."""
    key = stream_key(EVENTS)
    async with store.client() as client:
        await client.execute_command("FLUSHALL", "SYNC")
        await _write_states(client)
        await _write_events(client, num_events)
        with on_served_core():
            running = feature_sync(folder, store.url, registry_uri=f"sqlite:///{folder}/no-registry.db")
            async with running as process:
                await wait_until(lambda: _is_shorter(client, num_events), "the first events are applied")
                started, remaining = time.perf_counter(), await client.xlen(key)
                await wait_until(lambda: _is_shorter(client, 1), "all are applied", patience_seconds=_PATIENCE_SECONDS)
                seconds = time.perf_counter() - started
                cpu_seconds = _cpu_seconds(process.pid)
    return Throughput(num_events=remaining, seconds=seconds, cpu_seconds=cpu_seconds)


async def bytes_per_mark(store: Valkey, *, num_marks: int) -> float:
    """The store's memory per remembered event id, in bytes."""
    marks = EventMarks(period_seconds=3600, now=time.time())
    async with store.client() as client:
        await client.execute_command("FLUSHALL", "SYNC")
        before = (await client.info("memory"))["used_memory"]
        for start in range(0, num_marks, _CHUNK):
            pipe = client.pipeline(transaction=False)
            for command in marks.additions(mark_of(f"event-{n}") for n in range(start, start + _CHUNK)):
                pipe.execute_command(*command)
            await pipe.execute()
        growth = (await client.info("memory"))["used_memory"] - before
        await client.execute_command("FLUSHALL", "SYNC")
    return float(growth / num_marks)


async def _is_shorter(client: redis.asyncio.Redis, length: int) -> bool:
    return bool(await client.xlen(stream_key(EVENTS)) < length)


async def _write_states(client: redis.asyncio.Redis) -> None:
    generator = np.random.default_rng(0)
    keys = id_keys(f"item-{number}" for number in range(_NUM_ITEMS))
    times = np.arange(_HISTORY, dtype=np.int64) * 3_600_000_000 + 1_700_000_000_000_000
    codes = np.full(_HISTORY, names.EVENT_CODES["click"], dtype=np.uint8)
    for start in range(0, _NUM_USERS, _CHUNK):
        states = {}
        for user in range(start, start + _CHUNK):
            chosen = keys[generator.choice(_NUM_ITEMS, _HISTORY, replace=False)]
            states[user_state_key(f"user-{user}")] = UserState.from_events(chosen, codes, times, features={}).to_bytes()
        await client.mset(states)


async def _write_events(client: redis.asyncio.Redis, num_events: int) -> None:
    """Appends events. Popularity of items follows Zipf's law; event ids are as long as clients' UUIDs."""
    generator = np.random.default_rng(1)
    users = generator.integers(_NUM_USERS, size=num_events)
    items = np.minimum(generator.zipf(1.2, size=num_events), _NUM_ITEMS) - 1
    types = generator.choice(list(_SHARES), size=num_events, p=list(_SHARES.values()))
    now = int(time.time() * 1e6)
    for start in range(0, num_events, _CHUNK):
        pipe = client.pipeline(transaction=False)
        for number in range(start, min(start + _CHUNK, num_events)):
            event = Event(
                event_id=f"{number:08x}-5b1f-4a6e-9c3d-{number:012x}",
                user_id=f"user-{users[number]}",
                item_id=f"item-{items[number]}",
                type=str(types[number]),
                occurred_at=now,
                received_at=now,
                request_id=f"{number:032x}",
                position=number % 10,
            )
            pipe.xadd(stream_key(EVENTS), {ENTRY_FIELD: event.to_bytes()})
        await pipe.execute()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def use_load_cores() -> None:
    """Keeps this process, and the store that it starts, off the measured core."""
    os.sched_setaffinity(0, load_cores())

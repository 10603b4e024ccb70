"""Time from the acknowledgement of an event to its effect on answers: real server, `feature_sync run` and store.

A probe requests a user's recommendations, records a click on the first item, and repeats the request until that item is
no longer recommended. Meanwhile the server records other users' events at a constant rate.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from benchmarks.event_path.throughput import feature_sync
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.store import UserState, UserVector
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import PATIENCE_SECONDS, Server, Valkey, serve
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

_NUM_USERS: Final = 1_000
_NUM_ITEMS: Final = 5_000
_HISTORY: Final = 20
_BACKGROUND_EVENTS_PER_CALL: Final = 20
_POLL_SECONDS: Final = 0.002
_WARM_UP_PROBES: Final = 10


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """Times from acknowledgement to effect."""

    seconds: tuple[float, ...]
    """One per probe."""
    background_per_second: float
    """Rate of other users' events that were recorded during the probes."""

    def quantile_ms(self, share: float) -> float:
        """Quantile of the times, in milliseconds."""
        return float(np.quantile(self.seconds, share) * 1000)


async def freshness(store: Valkey, folder: Path, *, num_probes: int, background_per_second: int) -> Freshness:
    """Runs `num_probes` probes, one after the other."""
    bundle = build_tiny_bundle(folder / "bundle", TinySpec(num_items=_NUM_ITEMS, dim=64, num_lists=32))
    await _write_users(store, bundle)
    server = serve(folder / "server", bundle_path=bundle.directory, store_url=store.url)
    sync = feature_sync(folder / "sync", store.url, registry_uri=f"sqlite:///{folder}/no-registry.db")
    async with server as running, sync, _background(running, background_per_second) as recorded:
        for number in range(_WARM_UP_PROBES):
            await _probe(running, number)
        started, before = time.monotonic(), recorded[0]
        seconds = [await _probe(running, _WARM_UP_PROBES + number) for number in range(num_probes)]
        rate = (recorded[0] - before) / (time.monotonic() - started)
    return Freshness(seconds=tuple(seconds), background_per_second=rate)


async def _probe(server: Server, number: int) -> float:
    user_id = f"user-{number % _NUM_USERS}"
    first = (await server.recommend(user_id=user_id, num_items=10)).items[0].item_id
    event = _event(f"probe-{number}", user_id, first)
    await server.stub.RecordEvents(pb.RecordEventsRequest(events=[event]), timeout=PATIENCE_SECONDS)
    acknowledged = time.perf_counter()
    while True:
        answer = await server.recommend(user_id=user_id, num_items=10)
        seconds = time.perf_counter() - acknowledged
        assert not answer.degraded_reasons, answer.degraded_reasons
        if first not in {item.item_id for item in answer.items}:
            return seconds
        assert seconds < PATIENCE_SECONDS, "the event has no effect"
        await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def _background(server: Server, per_second: int) -> AsyncIterator[list[int]]:
    """Records events of other users; yields a list whose only entry is the number of events recorded so far."""
    recorded = [0]

    async def record() -> None:
        for call in itertools.count():
            due = time.monotonic() + _BACKGROUND_EVENTS_PER_CALL / per_second
            events = [
                _event(f"other-{number}", f"other-{number % 5_000}", f"item-{number * 7919 % _NUM_ITEMS}")
                for number in range(call * _BACKGROUND_EVENTS_PER_CALL, (call + 1) * _BACKGROUND_EVENTS_PER_CALL)
            ]
            await server.stub.RecordEvents(pb.RecordEventsRequest(events=events), timeout=PATIENCE_SECONDS)
            recorded[0] += len(events)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    task = asyncio.create_task(record())
    try:
        yield recorded
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _event(event_id: str, user_id: str, item_id: str) -> pb.Event:
    now = Timestamp()
    now.GetCurrentTime()
    return pb.Event(event_id=event_id, user_id=user_id, item_id=item_id, type=pb.EVENT_TYPE_CLICK, occurred_at=now)


async def _write_users(store: Valkey, bundle: Bundle) -> None:
    generator = np.random.default_rng(0)
    keys = bundle.item_vocabulary.keys
    times = np.arange(_HISTORY, dtype=np.int64) * 3_600_000_000 + 1_700_000_000_000_000
    codes = np.full(_HISTORY, names.EVENT_CODES["click"], dtype=np.uint8)
    for user in range(_NUM_USERS):
        rows = generator.choice(len(keys), _HISTORY, replace=False)
        mean = np.asarray(bundle.item_vectors)[rows].mean(axis=0)
        vector = UserVector(1, (mean / np.linalg.norm(mean)).astype(np.float32))
        state = UserState.from_events(keys[rows], codes, times, features={})
        await store.put(f"user-{user}", state, vectors={bundle.manifest.model_version: vector})

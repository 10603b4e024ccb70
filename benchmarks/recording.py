"""Events per second that one worker records, and their cost to answers given at the same time.

`python -m benchmarks.recording [--seconds 5]` serves a tiny catalogue with a Valkey that syncs every write, and calls
the server from this process: RecordEvents with 100 events per call, from 1, 8 and 32 callers; then Recommend alone and
beside 5,000 events/s. Costs are the worker's processor time, which other work on the machine changes less than
throughput.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environment.machine import on_served_core
from inference_server.supervisor.process_usage import usage
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import Server, serve, valkey
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle, state_of

EVENTS_PER_CALL = 100
CALLERS = (1, 8, 32)
RECOMMEND_CALLERS = 8
PACED_EVENTS_PER_SECOND = 5000

_Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Rate and latency of one kind of call."""

    calls_per_second: float
    median_ms: float
    p99_ms: float


def _events(number: int) -> pb.RecordEventsRequest:
    return pb.RecordEventsRequest(
        events=[
            pb.Event(
                event_id=uuid.uuid4().hex,
                user_id=f"user-{number}-{position}",
                item_id=f"item-{position}",
                type=pb.EVENT_TYPE_CLICK,
                request_id=uuid.uuid4().hex,
                position=position,
            )
            for position in range(EVENTS_PER_CALL)
        ]
    )


async def load(call: _Call, *, callers: int, seconds: float, calls_per_second: float | None = None) -> Measured:
    """Runs `callers` concurrent loops of `call` for `seconds`, at full speed or at `calls_per_second` in total."""
    latencies: list[float] = []
    started = time.perf_counter()
    end = started + seconds

    async def call_in_loop(caller: int) -> None:
        due = started + caller / (calls_per_second or 1)
        while time.perf_counter() < end:
            if calls_per_second is not None:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += callers / calls_per_second
            begun = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(call_in_loop(caller) for caller in range(callers)))
    elapsed = time.perf_counter() - started
    latencies.sort()
    return Measured(
        calls_per_second=len(latencies) / elapsed,
        median_ms=1e3 * latencies[len(latencies) // 2],
        p99_ms=1e3 * latencies[int(0.99 * len(latencies))],
    )


async def measure(server: Server, seconds: float) -> None:
    """Prints one line for each measurement."""
    pid = await server.worker_pid(1)
    requests = [_events(number) for number in range(16)]
    turn = iter(range(1 << 62))

    async def record() -> None:
        await server.stub.RecordEvents(requests[next(turn) % len(requests)])

    async def recommend() -> None:
        await server.recommend(user_id="u")

    async def show(title: str, unit: str, *loads: Awaitable[Measured]) -> None:
        before = _cpu_seconds(pid)
        results = await asyncio.gather(*loads)
        cpu = _cpu_seconds(pid) - before
        first = results[0]
        scale = EVENTS_PER_CALL if unit == "events" else 1
        print(
            f"{title}: {first.calls_per_second * scale:,.0f} {unit}/s, median {first.median_ms:.1f} ms,"
            f" p99 {first.p99_ms:.1f} ms; worker {cpu / seconds:.2f} of a core"
        )

    rate = PACED_EVENTS_PER_SECOND / EVENTS_PER_CALL
    for callers in CALLERS:
        await show(f"events, {callers} callers", "events", load(record, callers=callers, seconds=seconds))
    paced = f"{PACED_EVENTS_PER_SECOND:,} events/s"
    for _ in range(3):
        await show(paced, "events", load(record, callers=4, seconds=seconds, calls_per_second=rate))
        await show("Recommend alone", "answers", load(recommend, callers=RECOMMEND_CALLERS, seconds=seconds))
        await show(
            f"Recommend beside {paced}",
            "answers",
            load(recommend, callers=RECOMMEND_CALLERS, seconds=seconds),
            load(record, callers=4, seconds=seconds, calls_per_second=rate),
        )


def _cpu_seconds(pid: int) -> float:
    found = usage(pid)
    assert found is not None
    return found.cpu_seconds


async def main() -> None:
    """Starts the store and the server, and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    seconds = parser.parse_args().seconds
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-recording-")))
        bundle = build_tiny_bundle(folder / "bundle", TinySpec())
        store = await stack.enter_async_context(valkey(folder / "valkey"))
        await store.put("u", state_of(["item-1", "item-5"]))
        serving = serve(
            folder / "server",
            bundle_path=bundle.directory,
            store_url=store.url,
            max_streams_per_connection=max(CALLERS) + RECOMMEND_CALLERS,
            events_max_backlog=100_000_000,
        )
        with on_served_core():
            server = await stack.enter_async_context(serving)
        await measure(server, seconds)


if __name__ == "__main__":
    asyncio.run(main())

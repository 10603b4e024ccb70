"""Timelines of a load, second by second: from h2load's log, the probe, and /metrics read once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.load.h2load import LoadResult, Seconds, quantiles_ms
from benchmarks.load.metrics import OK, REFUSED, Scrape
from benchmarks.load.probe import Sample

_INTERVAL_SECONDS: Final = 1.0


@dataclass(kw_only=True)
class Watched:
    """Readings taken once a second. A reading that failed because its process had ended is left out."""

    scrapes: list[tuple[float, Scrape]] = field(default_factory=list)
    """(time of the reading in seconds since 1970, scrape)."""
    resident_megabytes: list[float] = field(default_factory=list)


@asynccontextmanager
async def watching(
    read: Callable[[], Any], resident_megabytes: Callable[[], float] | None = None
) -> AsyncIterator[Watched]:
    """Reads /metrics and memory at the start of the block, once a second during it, and at its end."""
    watched = Watched()

    async def take_reading() -> None:
        try:
            async with asyncio.timeout(_INTERVAL_SECONDS):
                scrape = await read()
            watched.scrapes.append((time.time(), scrape))
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        if resident_megabytes is not None:
            watched.resident_megabytes.append(resident_megabytes())

    async def take_readings() -> None:
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            await take_reading()

    await take_reading()
    task = asyncio.create_task(take_readings(), name="watching")
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await take_reading()


def due_seconds(result: LoadResult, begin: float) -> Seconds:
    """(requests,) float64: when each request of a load was due, in seconds after `begin`."""
    return result.ends - result.from_schedule - begin


def load_timeline(result: LoadResult, begin: float, seconds: int) -> list[dict[str, Any]]:
    """Per second after `begin`: number and latency of answers to the requests that were due in that second."""
    due = due_seconds(result, begin)
    rows = []
    for second in range(seconds):
        latencies = result.from_schedule[(due >= second) & (due < second + 1)]
        found = quantiles_ms(latencies)
        rows.append({"second": second, "answers": len(latencies), "p50_ms": found["p50"], "p99_ms": found["p99"]})
    return rows


def server_timeline(watched: Watched, begin: float) -> list[dict[str, Any]]:
    """Per interval between two readings of /metrics: answers, share of degraded answers, refusals and errors."""
    rows = []
    for (_, before), (at, after) in zip(watched.scrapes, watched.scrapes[1:], strict=False):
        counted = after.since(before)
        rows.append(
            {
                "second": round(at - begin, 2),
                "answers": round(counted.answered),
                "degraded_share": round(counted.degraded / counted.answered, 4) if counted.answered else 0.0,
                "refused": round(counted.refused),
                "errors": round(counted.errors),
            }
        )
    return rows


def probe_timeline(samples: Sequence[Sample], begin: float, seconds: int) -> list[dict[str, Any]]:
    """Per second after `begin`: outcomes of the probe's requests that were due in that second."""
    rows = []
    for second in range(seconds):
        own = [sample for sample in samples if second <= sample.due - begin < second + 1]
        answered = [sample for sample in own if sample.code == OK]
        found = quantiles_ms(np.array([sample.seconds for sample in answered]))
        rows.append(
            {
                "second": second,
                "requests": len(own),
                "errors": sum(sample.code not in {OK, REFUSED} for sample in own),
                "refused": sum(sample.code == REFUSED for sample in own),
                "degraded_share": round(sum(bool(s.degraded_reasons) for s in answered) / max(1, len(answered)), 4),
                "p99_ms": found["p99"],
                "max_ms": found["max"],
            }
        )
    return rows

"""Overload: twice and five times the capacity, on 8 and on 64 connections.

A server that sheds load well keeps its rate and latency of answers, refuses further requests at once without using
memory for them, and is back to normal as soon as the overload ends.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import numpy as np

from benchmarks.environment.bench import Bench, Tandem, say
from benchmarks.load import probe
from benchmarks.load.h2load import Load, Target, grpc_target, quantiles_ms, run_load
from benchmarks.load.probe import Sample, probing
from benchmarks.load.timeline import probe_timeline, server_timeline, watching

FACTORS: Final = (2, 5)
CONNECTIONS: Final = (8, 64)

_CATALOGUE: Final = "ml-1m"
_MAX_IN_FLIGHT: Final = 3200
"""Over all connections: many times the number that a server admits, as from callers that do not wait."""
_CAPACITY_IN_FLIGHT: Final = 32
_PROBES_PER_SECOND: Final = 200
_CALM_BEFORE_SECONDS: Final = 4
_NORMAL_FACTOR: Final = 2.0
"""The P99 of a second is normal again below this multiple of the P99 before the overload."""


async def overload(bench: Bench) -> dict[str, Any]:
    """Measures every factor with every number of connections, each on a new server."""
    catalogue = await bench.catalogue(_CATALOGUE)
    runs = []
    async with bench.tandem(catalogue) as tandem:
        capacity = _measured_capacity(bench) or await _capacity(bench, tandem)
    for connections in CONNECTIONS:
        for factor in FACTORS:
            async with bench.tandem(catalogue) as tandem:
                target = grpc_target(tandem.grpc_port, bench.requests(catalogue))
                run = await _flood(bench, tandem, target, rate=factor * capacity, connections=connections)
            goodput = run["goodput_per_second"]
            runs.append(
                {
                    "factor": factor,
                    "connections": connections,
                    **run,
                    "goodput_of_capacity": round(goodput / capacity, 4),
                }
            )
            say(f"  {factor}x on {connections} connections: {goodput:,.0f}/s of {capacity:,.0f}/s")
    return {"capacity_per_second": round(capacity, 1), "runs": runs}


def _measured_capacity(bench: Bench) -> float | None:
    """The capacity that `throughput` measured in this run; None if it did not run."""
    try:
        return float(bench.results["throughput"]["medians"][f"tandem {_CATALOGUE}"]["full_answers_per_second"])
    except KeyError:
        return None


async def _capacity(bench: Bench, tandem: Tandem) -> float:
    catalogue = await bench.catalogue(_CATALOGUE)
    load = Load.in_flight(_CAPACITY_IN_FLIGHT, seconds=bench.seconds(5))
    return (await run_load(grpc_target(tandem.grpc_port, bench.requests(catalogue)), load)).rate


async def _flood(bench: Bench, tandem: Tandem, target: Target, *, rate: float, connections: int) -> dict[str, Any]:
    seconds, after = bench.seconds(20, 2), bench.seconds(8, 2)
    processes = 8
    load = Load(
        seconds=seconds,
        warm_up_seconds=0.0,
        rate=rate,
        processes=processes,
        clients_per_process=connections // processes,
        streams_per_client=_MAX_IN_FLIGHT // connections,
    )
    requests = bench.requests(await bench.catalogue(_CATALOGUE))
    async with (
        watching(tandem.scrape, tandem.resident_megabytes) as watched,
        probing(tandem.grpc_port, requests, _PROBES_PER_SECOND) as prober,
    ):
        begin = time.time()
        await asyncio.sleep(bench.seconds(_CALM_BEFORE_SECONDS))
        flood_begins, before = time.time(), await tandem.scrape()
        result = await run_load(target, load)
        flood_ends = time.time()
        counted = (await tandem.scrape()).since(before)
        elapsed = time.time() - flood_begins
        await asyncio.sleep(after)
    calm = np.array([s.seconds for s in prober.samples if s.due < flood_begins - 0.5])
    calm_p99_ms = quantiles_ms(calm)["p99"] or 0.0
    during = [s for s in prober.samples if flood_begins <= s.due < flood_ends]
    # h2load counts every HTTP answer. Answers that the server's code did not count are refusals by gRPC's core.
    ended_by_transport = result.total_answers - (counted.answered + counted.refused + counted.errors - len(during))
    total = int(np.ceil(time.time() - begin))
    return {
        "load": result.summary(),
        "reached_server_per_second": round((counted.answered + counted.refused + counted.errors) / elapsed, 1),
        "ended_by_transport_per_second": round(max(0.0, ended_by_transport) / elapsed, 1),
        "goodput_per_second": round(counted.answered / elapsed, 1),
        "full_answers_per_second": round((counted.answered - counted.degraded) / elapsed, 1),
        "refused_per_second": round(counted.refused / elapsed, 1),
        "server": counted.summary(),
        "share_of_all_within_50_ms": round(counted.request_seconds.share_within(0.05), 5),
        "probe": probe.summary(during),
        "probe_p99_ms_before": calm_p99_ms,
        "seconds_until_normal": seconds_until_normal(
            prober.samples, flood_ends, limit_seconds=_NORMAL_FACTOR * calm_p99_ms * 1e-3
        ),
        "resident_megabytes": {
            "before": round(watched.resident_megabytes[0], 1),
            "peak": round(max(watched.resident_megabytes), 1),
            "after": round(watched.resident_megabytes[-1], 1),
        },
        "flood_seconds": [round(flood_begins - begin, 2), round(flood_ends - begin, 2)],
        "timeline": {
            "server": server_timeline(watched, begin),
            "probe": probe_timeline(prober.samples, begin, total),
        },
    }


def seconds_until_normal(samples: list[Sample], flood_ends: float, *, limit_seconds: float) -> float | None:
    """Seconds from the overload's end to the first second with P99 within the limit and no refusal, or None.

    A sample's latency counts from when it was due, so a delay of the probe itself makes the result larger, not smaller.
    """
    later = sorted((s for s in samples if s.due >= flood_ends), key=lambda s: s.due)
    for index, sample in enumerate(later):
        within = [s for s in later[index:] if s.due < sample.due + 1.0]
        if later[-1].due < sample.due + 0.9:
            break
        answered = np.array([s.seconds for s in within if s.code == "OK"])
        fast = len(answered) == len(within) and np.quantile(answered, 0.99, method="inverted_cdf") <= limit_seconds
        if fast:
            return round(sample.due - flood_ends, 2)
    return None

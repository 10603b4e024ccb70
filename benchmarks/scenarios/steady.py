"""A minute at 1,000 requests a second, over gRPC and over HTTP."""

from __future__ import annotations

import json
from typing import Any, Final

from benchmarks.environment.bench import Bench, Tandem, say
from benchmarks.load import probe
from benchmarks.load.h2load import Load, Target, grpc_target, http_target, run_load
from benchmarks.load.probe import probing

RATE: Final = 1000
_CATALOGUE: Final = "ml-1m"
_HTTP_PROCESSES: Final = 16
"""An HTTP/1.1 connection has one request in flight: each of the 16 connections sends a request every 16 ms."""
_PROBES_PER_SECOND: Final = 20


async def steady(bench: Bench) -> dict[str, Any]:
    """Measures both protocols, one after the other, on one server."""
    catalogue = await bench.catalogue(_CATALOGUE)
    requests = bench.requests(catalogue)
    seconds = bench.seconds(60, 2)
    async with bench.tandem(catalogue) as tandem:
        rate = bench.seconds(RATE, 200)
        results = {
            "grpc": await _run(
                tandem, grpc_target(tandem.grpc_port, requests), Load.at_rate(rate, seconds=seconds), bench
            )
        }
        if tandem.http_port:
            bodies = [
                json.dumps({"user_id": request.user_id, "num_items": request.num_items}).encode()
                for request in requests
            ]
            load = Load(seconds=seconds, rate=rate, processes=_HTTP_PROCESSES, streams_per_client=1)
            results["http"] = await _run(tandem, http_target(tandem.http_port, bodies), load, bench)
        else:
            say("  the server has no HTTP port: nothing is measured over HTTP")
    return results


async def _run(tandem: Tandem, target: Target, load: Load, bench: Bench) -> dict[str, Any]:
    catalogue = await bench.catalogue(_CATALOGUE)
    before = await tandem.scrape()
    async with probing(tandem.grpc_port, bench.requests(catalogue), _PROBES_PER_SECOND) as prober:
        result = await run_load(target, load)
    counted = (await tandem.scrape()).since(before)
    if target.http1:
        counted = counted.over_http()
    say(f"  {result.rate:,.0f}/s, {result.summary()['from_schedule_ms']}")
    return {
        **result.summary(),
        "seconds": load.seconds,
        "server": counted.summary(),
        "probe": probe.summary(prober.samples),
        "resident_megabytes": round(tandem.resident_megabytes(), 1),
    }

"""Latency against rate, for catalogues of different sizes. Open loop: a slow answer does not delay the next request."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.environment.bench import Bench, say
from benchmarks.load.h2load import Load, grpc_target, run_load

SIZES: Final = ("1.7k", "ml-1m", "100k", "1m")
RATES: Final = (250, 500, 1000, 1500, 2000, 2500)
_SATURATED_SHARE: Final = 0.98
"""With a lower share of full answers, the server is saturated, and higher rates are not measured."""


async def latency(bench: Bench) -> dict[str, Any]:
    """Measures all rates for each size of catalogue, up to the rate that saturates the server."""
    curves: dict[str, Any] = {}
    for size in SIZES[:1] if bench.quick else SIZES:
        catalogue = await bench.catalogue(size)
        points = []
        async with bench.tandem(catalogue) as tandem:
            target = grpc_target(tandem.grpc_port, bench.requests(catalogue))
            for rate in RATES[:2] if bench.quick else RATES:
                before = await tandem.scrape()
                result = await run_load(target, Load.at_rate(rate, seconds=bench.seconds(6)))
                counted = (await tandem.scrape()).since(before)
                saturated = result.rate * result.full_share(counted) < _SATURATED_SHARE * rate
                points.append({**result.summary(), "server": counted.summary(), "saturated": saturated})
                say(f"  {size} at {rate}/s: {result.rate:,.0f}/s, {points[-1]['from_schedule_ms']}")
                if saturated:
                    break
        manifest = catalogue.bundle.manifest
        curves[size] = {
            "num_items": catalogue.spec.num_items,
            "index": manifest.index.kind,
            "nprobe": manifest.index.nprobe,
            "recall_at_100": round(manifest.index.recall_at_100, 4),
            "points": points,
        }
    return {"curves": curves}

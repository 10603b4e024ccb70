"""`python -m benchmarks.event_path.shadow_cost`: what a shadow costs the callers; writes
benchmarks/results/shadow-cost.*.

Servers with different shares take turns on the served core, under as many calls as they answer and under a steady rate.
On a shared machine the figures drift, so the report gives ratios within each round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from benchmarks.environment.bench import Bench, Tandem, say
from benchmarks.environment.machine import describe_machine, load_cores
from benchmarks.load.h2load import Load, Target, grpc_target, quantiles_ms, run_load
from benchmarks.reporting.tables import table
from tests.support.serving import MlflowRegistry, valkey

_OUTPUT: Final = Path("benchmarks/results/shadow-cost")
_SHARES: Final = (0.0, 0.05, 0.25, 1.0)
_IN_FLIGHT: Final = 8
_RATE: Final = 200.0
_NOTE: Final = (
    "On a busy machine the ratios say more than the figures, and a range that holds 1 says that no difference was seen."
)
_MODEL: Final = "shadowed"
Round = dict[str, dict[str, float]]


async def measure(bench: Bench, registry: MlflowRegistry, *, rounds: int, seconds: float) -> tuple[list[Round], Round]:
    """The figures of each share, by round, and what became of the shadows' requests. The order changes from round to
    round."""
    catalogue = await bench.catalogue("tiny")
    for alias in ("champion", "challenger"):
        version = catalogue.bundle.manifest.model_version
        registry.register(catalogue.bundle.directory, model_name=_MODEL, model_version=version, alias=alias)
    found: list[Round] = []
    async with AsyncExitStack() as stack:
        servers = {}
        for share in _SHARES:
            settings: dict[str, object] = {"registry_uri": registry.uri, "model_name": _MODEL}
            if share:
                settings |= {"shadow_model": "challenger", "shadow_share": share}
            servers[share] = await stack.enter_async_context(bench.tandem(None, **settings))
            if share:
                await servers[share].server.log("further_model_serving", alias="challenger")
        requests = bench.requests(catalogue)
        targets = {share: grpc_target(server.grpc_port, requests) for share, server in servers.items()}
        for number in range(rounds):
            order = list(servers) if number % 2 else list(reversed(servers))
            points = {str(share): await _point(servers[share], targets[share], seconds) for share in order}
            say(f"  round {number + 1}: {points}")
            found.append(points)
        outcomes = {str(share): await shadowed(server) for share, server in servers.items()}
    return found, outcomes


async def _point(server: Tandem, target: Target, seconds: float) -> dict[str, float]:
    before = await server.scrape()
    full = await run_load(target, Load.in_flight(_IN_FLIGHT, seconds=seconds, warm_up_seconds=0.5))
    between = await server.scrape()
    steady = await run_load(target, Load.at_rate(_RATE, seconds=seconds))
    after = await server.scrape()
    return {
        "answers_per_second": round(full.rate, 1),
        "full_p99_ms": quantiles_ms(full.from_send)["p99"] or 0.0,
        "steady_p50_ms": quantiles_ms(steady.from_send)["p50"] or 0.0,
        "steady_p99_ms": quantiles_ms(steady.from_send)["p99"] or 0.0,
        "degraded": between.since(before).degraded + after.since(between).degraded,
        "failed": full.failed + steady.failed,
    }


async def shadowed(server: Tandem) -> dict[str, float]:
    """Requests of a server's shadow by outcome."""
    found: dict[str, float] = {}
    for line in (await server.server.metrics()).splitlines():
        if line.startswith("tandem_shadow_requests_total{"):
            labels, value = line.rsplit(" ", 1)
            found[labels.partition('outcome="')[2].partition('"')[0]] = float(value)
    return {outcome: count for outcome, count in found.items() if count}


def page(rounds: list[Round], outcomes: Round) -> str:
    """The result as a page of Markdown."""
    machine = describe_machine()

    def ratio(share: float, field: str) -> str:
        ratios = [points[str(share)][field] / points["0.0"][field] for points in rounds]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    fields = ("answers_per_second", "full_p99_ms", "steady_p50_ms", "steady_p99_ms")
    ratios = [(f"{share:g}", *(ratio(share, field) for field in fields)) for share in _SHARES[1:]]
    medians = [
        (
            f"{share:g}",
            *(round(statistics.median(points[str(share)][field] for points in rounds), 2) for field in fields),
            *(sum(points[str(share)][field] for points in rounds) for field in ("degraded", "failed")),
        )
        for share in _SHARES
    ]
    became = [
        (f"{share:g}", ", ".join(f"{name} {count:,.0f}" for name, count in sorted(outcomes[str(share)].items())))
        for share in _SHARES[1:]
    ]
    columns = ("answers/s", "P99, ms", f"P50 at {_RATE:.0f}/s, ms", f"P99 at {_RATE:.0f}/s, ms")
    return f"""# What a shadow costs the callers

Ratios to the server without a shadow, median of {len(rounds)} rounds and their range, {_IN_FLIGHT} calls in flight
and then {_RATE:.0f} calls a second:

{table(("share", *columns), ratios)}

The figures themselves, medians of the rounds, and the callers' degraded and failed answers in all rounds:

{table(("share", *columns, "degraded", "failed"), medians)}

What became of the requests that were chosen:

{table(("share", "outcomes"), became)}

`python -m benchmarks.event_path.shadow_cost`, {machine["date"]}. {machine["processor"]}, {machine["cores"]} cores,
shared with other programs: load average {os.getloadavg()[1]:.1f} over the last five minutes. Catalogue `tiny` (600
items), champion and challenger are the same bundle, one worker, ten items for each answer. {_NOTE}
"""


async def run(*, rounds: int, seconds: float) -> tuple[list[Round], Round]:
    """Measures with a store and a registry of its own."""
    os.sched_setaffinity(0, load_cores())
    with tempfile.TemporaryDirectory(prefix="tandem-shadow-cost-") as name:
        async with valkey(Path(name) / "store") as store:
            bench = Bench(folder=Path(name), catalogue_dir=Path(".tandem/bench"), store=store, quick=True)
            return await measure(bench, MlflowRegistry(Path(name) / "registry"), rounds=rounds, seconds=seconds)


def main() -> int:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.event_path.shadow_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn (default: %(default)s)")
    options = parser.parse_args()
    rounds, outcomes = asyncio.run(run(rounds=options.rounds, seconds=options.seconds))
    _OUTPUT.with_suffix(".json").write_text(json.dumps({"rounds": rounds, "outcomes": outcomes}, indent=1) + "\n")
    _OUTPUT.with_suffix(".md").write_text(page(rounds, outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())

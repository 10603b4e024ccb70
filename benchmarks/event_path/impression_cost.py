"""`python -m benchmarks.event_path.impression_cost`: what recording impressions costs a worker; writes
benchmarks/results/impression-cost.*.

Two servers, with and without, take turns on the served core under the load of the request-path benchmark. On a shared
machine the rates drift, so the report gives the ratio within each pair, and beside it the worker's processor time for
an answer, which other programs disturb less.
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
from typing import Any, Final

from benchmarks.environment.bench import Bench, Tandem, say
from benchmarks.environment.machine import describe_machine, load_cores
from benchmarks.load.h2load import Load, Target, grpc_target, run_load
from benchmarks.reporting.tables import table
from tandem.contract.streams import IMPRESSIONS, stream_key
from tests.support.serving import valkey

_OUTPUT: Final = Path("benchmarks/results/impression-cost")
_IN_FLIGHT: Final = 32
_SETTINGS: Final[dict[str, dict[str, object]]] = {"off": {}, "stream": {"impressions": "stream"}}
_TICKS: Final = os.sysconf("SC_CLK_TCK")


async def measure(bench: Bench, *, rounds: int, seconds: float) -> list[dict[str, dict[str, float]]]:
    """Answers per second and processor time of each setting, by round. The order changes from round to round."""
    catalogue = await bench.catalogue("ml-1m")
    found = []
    async with AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(bench.tandem(catalogue, **settings))
            for name, settings in _SETTINGS.items()
        }
        targets = {name: grpc_target(server.grpc_port, bench.requests(catalogue)) for name, server in servers.items()}
        for number in range(rounds):
            order = list(servers) if number % 2 else list(reversed(servers))
            points = {name: await _point(servers[name], targets[name], seconds) for name in order}
            say(f"  round {number + 1}: {points}")
            found.append(points)
            async with bench.store.client() as client:
                await client.delete(stream_key(IMPRESSIONS))
    return found


async def _point(server: Tandem, target: Target, seconds: float) -> dict[str, float]:
    before, cpu_before = await server.scrape(), _cpu_seconds(server)
    result = await run_load(target, Load.in_flight(_IN_FLIGHT, seconds=seconds, warm_up_seconds=0.5))
    cpu_seconds = _cpu_seconds(server) - cpu_before
    counted = (await server.scrape()).since(before)
    return {"answers_per_second": round(result.rate, 1), "microseconds": round(1e6 * cpu_seconds / counted.answered, 1)}


def _cpu_seconds(server: Tandem) -> float:
    """Processor time of the workers so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in server.workers()]
    return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS


def page(rounds: list[dict[str, dict[str, float]]], catalogue: str) -> str:
    """The result as a page of Markdown."""
    machine = describe_machine()
    ratios = [points["stream"]["answers_per_second"] / points["off"]["answers_per_second"] for points in rounds]
    costs = [points["stream"]["microseconds"] - points["off"]["microseconds"] for points in rounds]
    lines: list[tuple[Any, ...]] = [
        (
            number,
            *(points[name][field] for name in _SETTINGS for field in ("answers_per_second", "microseconds")),
            f"{ratio:.3f}",
        )
        for number, (points, ratio) in enumerate(zip(rounds, ratios, strict=True), start=1)
    ]
    header = ("round", "off, answers/s", "off, us/answer", "stream, answers/s", "stream, us/answer", "ratio of rates")
    off = statistics.median(points["off"]["microseconds"] for points in rounds)
    return f"""# What recording impressions costs

With `TANDEM_IMPRESSIONS=stream` a worker gives {statistics.median(ratios):.1%} of the answers that it gives without
(median of {len(rounds)} pairs, {min(ratios):.1%} to {max(ratios):.1%}). Its processor time for an answer of ten items
grows by {statistics.median(costs):.0f} us, {statistics.median(costs) / off:.1%} (median; {min(costs):.0f} to
{max(costs):.0f} us).

{table(header, lines)}

`python -m benchmarks.event_path.impression_cost`, {machine["date"]}. {machine["processor"]}, {machine["cores"]} cores,
shared with other programs: load average {os.getloadavg()[1]:.1f} over the last five minutes.
{_IN_FLIGHT} requests in flight on the catalogue `{catalogue}`, one worker, Valkey that syncs every write;
no feature_sync runs.
"""


async def run(*, rounds: int, seconds: float, quick: bool) -> list[dict[str, dict[str, float]]]:
    """Measures with a store of its own."""
    os.sched_setaffinity(0, load_cores())
    with tempfile.TemporaryDirectory(prefix="tandem-impression-cost-") as name:
        async with valkey(Path(name) / "store") as store:
            bench = Bench(folder=Path(name), catalogue_dir=Path(".tandem/bench"), store=store, quick=quick)
            return await measure(bench, rounds=rounds, seconds=seconds)


def main() -> int:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.event_path.impression_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="on a tiny catalogue, and without writing the page")
    options = parser.parse_args()
    rounds = asyncio.run(run(rounds=options.rounds, seconds=options.seconds, quick=options.quick))
    if options.quick:
        print(page(rounds, "tiny"))
        return 0
    _OUTPUT.with_suffix(".json").write_text(json.dumps(rounds, indent=1) + "\n")
    _OUTPUT.with_suffix(".md").write_text(page(rounds, "ml-1m"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

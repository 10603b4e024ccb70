"""RecommendMany against single calls: users per second on one core, and single calls beside it.

`python -m benchmarks.scenarios.many [--rounds N] [--seconds S] [--output PATH]` serves a synthetic catalogue with
content and item-item sources, one worker on one core, and gives the arms turns in rounds: single calls; calls of 16, 64
and 256 queries, two in flight; single calls at a fixed rate, and the same beside a closed loop of calls with 256
queries. Ratios are those within a round, because the speed of a shared machine drifts. The processor time per user is
the worker's, of user and system, and depends less on what else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks.environment.bench import Bench, Tandem, say
from benchmarks.environment.machine import describe_machine, load_cores
from benchmarks.load.h2load import Load, Target, grpc_target, many_target, quantiles_ms, require_h2load, run_load
from benchmarks.load.metrics import Scrape
from benchmarks.synthetic.catalogues import BuiltCatalogue
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import valkey

_CATALOGUE: Final = "ml-1m-hybrid"
_SIZES: Final = (16, 64, 256)
_SINGLES_IN_FLIGHT: Final = 32
_CALLS_IN_FLIGHT: Final = 2
_BODIES: Final = 8
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One kind of call."""

    name: str
    target: Target
    load: Load
    beside: tuple[Target, Load] | None = None
    """A load at the same time that is not measured."""


async def run(*, rounds: int, seconds: float, rate: float, catalogue_dir: Path, quick: bool) -> dict[str, Any]:
    """Measures all arms in turns; returns the figures of each round, by arm."""
    require_h2load()
    os.sched_setaffinity(0, load_cores())
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        async with valkey(Path(name) / "store") as store:
            bench = Bench(folder=Path(name), catalogue_dir=catalogue_dir, store=store, quick=quick)
            catalogue = await bench.catalogue(_CATALOGUE)
            async with bench.tandem(catalogue) as tandem:
                arms = _arms(tandem, bench, catalogue, seconds=seconds, rate=rate)
                for arm in arms:  # warms up what the first round would pay for
                    await _measure(tandem, arm)
                measured = []
                for number in range(rounds):
                    measured.append({arm.name: await _measure(tandem, arm) for arm in arms})
                    say(f"round {number + 1}: {json.dumps(measured[-1])}")
    return {"machine": describe_machine(), "catalogue": catalogue.spec.name, "rate": rate, "rounds": measured}


def _arms(tandem: Tandem, bench: Bench, catalogue: BuiltCatalogue, *, seconds: float, rate: float) -> list[Arm]:
    singles = grpc_target(tandem.grpc_port, bench.requests(catalogue))
    arms = [Arm(name="single", target=singles, load=Load.in_flight(_SINGLES_IN_FLIGHT, seconds=seconds))]
    closed = Load.in_flight(_CALLS_IN_FLIGHT, seconds=seconds)
    for size in _SIZES:
        target = many_target(tandem.grpc_port, _calls(catalogue, size))
        arms.append(Arm(name=f"many {size}", target=target, load=closed))
    at_rate = Load.at_rate(rate, seconds=seconds)
    arms.append(Arm(name="rate", target=singles, load=at_rate))
    large = many_target(tandem.grpc_port, _calls(catalogue, _SIZES[-1]))
    beside = Load.in_flight(1, seconds=seconds)
    arms.append(Arm(name="rate beside many 256", target=singles, load=at_rate, beside=(large, beside)))
    return arms


def _calls(catalogue: BuiltCatalogue, size: int) -> list[pb.RecommendManyRequest]:
    """Calls for different users, one after the other."""
    users = catalogue.users
    ids = [users.user_id(number % len(users)) for number in range(_BODIES * size)]
    return [
        pb.RecommendManyRequest(
            queries=[
                pb.RecommendBatchRequest(request=pb.RecommendRequest(user_id=user_id, num_items=10))
                for user_id in ids[start : start + size]
            ]
        )
        for start in range(0, len(ids), size)
    ]


async def _measure(tandem: Tandem, arm: Arm) -> dict[str, float]:
    loads = [run_load(arm.target, arm.load)]
    if arm.beside is not None:
        loads.append(run_load(*arm.beside))
    before, cpu_before = await tandem.scrape(), _cpu_seconds(tandem)
    result, *_ = await asyncio.gather(*loads)
    cpu_seconds = _cpu_seconds(tandem) - cpu_before
    counted = (await tandem.scrape()).since(before)
    users = _answers(counted)
    quantiles = quantiles_ms(result.from_schedule)
    return {
        "users_per_second": round(users / (arm.load.seconds + arm.load.warm_up_seconds), 1),
        "cpu_us_per_user": round(1e6 * cpu_seconds / max(users, 1.0), 1),
        "full_share": round(1.0 - counted.degraded / max(users, 1.0), 4),
        "calls_per_second": round(result.rate, 1),
        "p50_ms": quantiles["p50"] or 0.0,
        "p99_ms": quantiles["p99"] or 0.0,
        "failed": result.failed,
    }


def _answers(counted: Scrape) -> float:
    return sum(counted.answers_by_source.values())


def _cpu_seconds(tandem: Tandem) -> float:
    ticks = 0
    for pid in tandem.workers():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_SECOND


def table(report: dict[str, Any]) -> str:
    """The medians as Markdown."""
    rounds: Sequence[dict[str, dict[str, float]]] = report["rounds"]

    def median(arm: str, figure: str) -> float:
        return statistics.median(measured[arm][figure] for measured in rounds)

    def ratio(arm: str, base: str, figure: str) -> float:
        return statistics.median(measured[arm][figure] / measured[base][figure] for measured in rounds)

    lines = [
        "| arm | users/s | of single | CPU us a user | of single | full answers | P50, P99 ms of a call |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in rounds[0]:
        users, cpu = (ratio(arm, "single", figure) for figure in ("users_per_second", "cpu_us_per_user"))
        lines.append(
            f"| {arm} | {median(arm, 'users_per_second'):,.0f} | {users:.2f} | {median(arm, 'cpu_us_per_user'):,.0f} | "
            f"{cpu:.2f} | {median(arm, 'full_share'):.3f} | {median(arm, 'p50_ms'):.1f}, {median(arm, 'p99_ms'):.1f} |"
        )
    lines.append(f"\nP99 of single calls beside: {ratio('rate beside many 256', 'rate', 'p99_ms'):.2f} of without.")
    return "\n".join(lines)


def main() -> None:
    """Parses the arguments, measures, and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenarios.many", description="RecommendMany against single calls."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each arm in each round")
    parser.add_argument("--rate", type=float, default=100.0, help="single calls a second, where they have a rate")
    parser.add_argument("--quick", action="store_true", help="on a tiny catalogue")
    parser.add_argument("--output", type=Path, default=None, metavar="PATH", help="where the rounds go as JSON")
    options = parser.parse_args()
    catalogue_dir = Path(os.environ.get("TANDEM_BENCH_DIR", ".tandem/bench")).resolve()
    report = uvloop.run(
        run(
            rounds=options.rounds,
            seconds=options.seconds,
            rate=options.rate,
            catalogue_dir=catalogue_dir,
            quick=options.quick,
        )
    )
    if options.output is not None:
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(report["machine"]["processor"])
    print(table(report))


if __name__ == "__main__":
    main()

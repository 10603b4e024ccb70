"""`python -m benchmarks`: runs scenarios and writes benchmarks/results/request-path.*; `make bench` runs them all."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks.environment.bench import Bench, say
from benchmarks.environment.chosen_names import names_among
from benchmarks.environment.machine import describe_machine, load_cores
from benchmarks.load.h2load import H2loadMissing, require_h2load
from benchmarks.reporting.report import write_report
from benchmarks.scenarios import SCENARIOS
from tests.support.serving import valkey

CATALOGUE_DIR_VARIABLE: Final = "TANDEM_BENCH_DIR"
_CATALOGUE_DIR: Final = Path(".tandem/bench")
_OUTPUT: Final = Path("benchmarks/results/request-path")


async def run(names: list[str], *, quick: bool, catalogue_dir: Path) -> dict[str, Any]:
    """Runs the scenarios named and returns the report, as written to JSON."""
    os.sched_setaffinity(0, load_cores())
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        folder = Path(name)
        async with valkey(folder / "store") as store:
            bench = Bench(folder=folder, catalogue_dir=catalogue_dir, store=store, quick=quick)
            for scenario in names:
                say(scenario)
                started = time.monotonic()
                try:
                    bench.results[scenario] = await SCENARIOS[scenario](bench)
                except Exception as error:  # a failed scenario must not lose the results of the rest
                    traceback.print_exc()
                    bench.results[scenario] = {"skipped": f"it failed: {error!r}", "failed": True}
                seconds[scenario] = round(time.monotonic() - started, 1)
    catalogues = [
        {
            "name": built.spec.name,
            "num_items": built.spec.num_items,
            "dim": built.spec.dim,
            "index": built.spec.index,
            "nprobe": built.bundle.manifest.index.nprobe,
            "recall_at_100": round(built.bundle.manifest.index.recall_at_100, 4),
            "build_seconds": round(built.build_seconds, 1),
        }
        for built in bench.opened()
    ]
    return {
        "machine": describe_machine(),
        "quick": quick,
        "catalogues": catalogues,
        "scenario_seconds": seconds,
        "scenarios": bench.results,
    }


def main() -> int:
    """Parses the arguments, runs the scenarios and writes the report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="The load benchmark.")
    parser.add_argument(
        "--scenarios",
        type=names_among(SCENARIOS, what="scenarios"),
        default=",".join(SCENARIOS),
        help="names of scenarios, separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="run each for seconds on a tiny catalogue, to see that it works"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        metavar="PATH",
        help=f"path of the report without suffix (default: {_OUTPUT}; --quick: none)",
    )
    options = parser.parse_args()
    try:
        require_h2load()
    except H2loadMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    catalogue_dir = Path(os.environ.get(CATALOGUE_DIR_VARIABLE, _CATALOGUE_DIR)).resolve()
    report = uvloop.run(run(options.scenarios, quick=options.quick, catalogue_dir=catalogue_dir))
    output = options.output or (None if options.quick else _OUTPUT)
    if output is not None:
        write_report(report, output)
        say(f"wrote {output}.json and {output}.md")
    return 1 if any(result.get("failed") for result in report["scenarios"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())

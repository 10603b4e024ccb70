"""`python -m benchmarks.faults`: runs every fault on a stack of its own and writes benchmarks/results/faults.*."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.environment.bench import say
from benchmarks.environment.chosen_names import names_among
from benchmarks.environment.machine import describe_machine
from benchmarks.faults.load import Load
from benchmarks.faults.measure import Row, measure
from benchmarks.faults.stack import registry_with_a_model
from benchmarks.faults.table import FAULTS, Fault
from benchmarks.reporting.tables import table

_OUTPUT: Final = Path("benchmarks/results/faults")


async def run(faults: Sequence[Fault]) -> list[Row]:
    """Measures the faults one after the other."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="tandem-faults-") as name:
        folder = Path(name)
        registry = registry_with_a_model(folder)
        for fault in faults:
            row = await measure(fault, folder / fault.name, registry)
            say(
                f"{fault.name}: {row.answers} answers, {row.degraded} degraded, {row.failed} failed; "
                f"{row.acknowledged} events acknowledged, {row.lost} lost, {row.doubled} doubled"
            )
            rows.append(row)
    return rows


def page(rows: Sequence[Row]) -> str:
    """The table as a page of Markdown."""
    machine = describe_machine()
    header = ("fault", "answers", "degraded", "failed", "last failure, s", "events", "acknowledged", "lost", "doubled")
    cells = [
        (
            row.what,
            row.answers,
            _with_kinds(row.degraded, row.degraded_by_reason),
            _with_kinds(row.failed, row.failed_by_status),
            None if row.last_failure_seconds is None else f"{row.last_failure_seconds:.1f}",
            row.events,
            row.acknowledged,
            row.lost,
            row.doubled,
        )
        for row in rows
    ]
    held = sum(row.holds for row in rows)
    return f"""# Faults under load

{held} of {len(rows)} rows hold: no acknowledged event was lost or doubled, and no `Recommend` failed while every worker
was running.

`make faults`, {machine["date"]}. {machine["processor"]}, {machine["cores"]} cores; load average
{os.getloadavg()[1]:.1f} over the last five minutes. Every row is a stack of its own (Valkey that syncs every write, a
server, `feature_sync run`, an MLflow registry) under 160 `Recommend` and 40 `RecordEvents` calls a second over 16
connections, with deadlines of {Load.recommend_seconds:g} and {Load.record_seconds:g} s. Calls are sent on a
schedule, so a server that hangs meets as many callers as before. The time of the last failure counts from the beginning
of the fault. Afterwards every event is looked up by its id in the archive.

{table((*header, "failed, but applied"), [(*line, row.unknown_applied) for line, row in zip(cells, rows, strict=True)])}
"""


def _with_kinds(count: int, kinds: dict[str, int]) -> str:
    if not count:
        return "0"
    return f"{count} ({', '.join(f'{kind} {number}' for kind, number in sorted(kinds.items()))})"


def main() -> int:
    """Runs the faults named, prints a line for each, and writes the table; returns 1 if a row does not hold."""
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="Faults of the stack under load.")
    parser.add_argument(
        "--faults",
        type=names_among(names, what="faults"),
        default=",".join(names),
        help="names separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        metavar="PATH",
        help=f"path without suffix (default: {_OUTPUT} for all faults)",
    )
    options = parser.parse_args()
    rows = asyncio.run(run([fault for fault in FAULTS if fault.name in options.faults]))
    output = options.output or (_OUTPUT if len(rows) == len(FAULTS) else None)
    if output is not None:
        output.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        output.with_suffix(".md").write_text(page(rows))
        say(f"wrote {output}.json and {output}.md")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

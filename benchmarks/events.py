"""`python -m benchmarks.events`: measures the path of an event and writes benchmarks/results/events.md in minutes."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.environment.bench import say
from benchmarks.environment.machine import describe_machine
from benchmarks.event_path.freshness import Freshness, freshness
from benchmarks.event_path.throughput import Throughput, bytes_per_mark, throughput, use_load_cores
from benchmarks.reporting.tables import table
from tests.support.serving import valkey

_OUTPUT: Final = Path("benchmarks/results/events.md")
_ROUNDS: Final = 3
_NUM_EVENTS: Final = 120_000
_NUM_PROBES: Final = 500
_BACKGROUND_PER_SECOND: Final = 500
_NUM_MARKS: Final = (100_000, 1_000_000)


async def measure(*, quick: bool) -> str:
    """Measures everything and returns the page. `quick` only checks that the benchmark works."""
    with tempfile.TemporaryDirectory(prefix="tandem-events-") as name:
        folder = Path(name)
        # The store starts before this process leaves the measured core, so it may use all cores, as the server may.
        async with valkey(folder / "store") as store:
            say("freshness")
            fresh = await freshness(
                store,
                folder / "freshness",
                num_probes=20 if quick else _NUM_PROBES,
                background_per_second=_BACKGROUND_PER_SECOND,
            )
        use_load_cores()
        async with valkey(folder / "throughput-store") as store:
            rounds = []
            for number in range(1 if quick else _ROUNDS):
                say(f"throughput, round {number + 1}")
                num_events = 5_000 if quick else _NUM_EVENTS
                rounds.append(await throughput(store, folder / f"round-{number}", num_events=num_events))
            say("marks")
            marks = {
                count: await bytes_per_mark(store, num_marks=count) for count in _NUM_MARKS[: 1 if quick else None]
            }
    return _page(rounds, fresh, marks)


def _page(rounds: list[Throughput], fresh: Freshness, marks: dict[int, float]) -> str:
    machine = describe_machine()
    throughput_table = table(
        ("round", "events", "events/s", "CPU of the process per event, us"),
        [
            (
                number,
                f"{measured.num_events:,}",
                f"{measured.events_per_second:,.0f}",
                f"{measured.cpu_seconds / measured.num_events * 1e6:.0f}",
            )
            for number, measured in enumerate(rounds, start=1)
        ],
    )
    quantiles = {"P50": 0.5, "P90": 0.9, "P99": 0.99, "max": 1.0}
    freshness_table = table(
        ("probes", *quantiles),
        [(len(fresh.seconds), *(f"{fresh.quantile_ms(share):.1f}" for share in quantiles.values()))],
    )
    mark_table = table(
        ("ids remembered", "bytes of the store for each"),
        [(f"{count:,}", f"{size:.1f}") for count, size in marks.items()],
    )
    return f"""# The path of an event

`python -m benchmarks.events`, {machine["date"]}. {machine["processor"]}, {machine["cores"]} cores, Linux
{machine["kernel"]}, Python {machine["python"]}; load average {os.getloadavg()[1]:.1f} over the last five minutes,
scheduling group of the measured processes {_scheduling_group()}.

## Events applied by one process on one core

Target: 5,000 events/s. A backlog of new events of 20,000 users with histories of 50 events, 70% impressions. The
process updates states, counters, trending items, the log and its archive, as in production. It has one core; Valkey has
the others and flushes every transaction to disk. CPU includes the start of the process.

{throughput_table}

## From acknowledgement to effect

Target: P99 below 1,000 ms, median below 100 ms. Milliseconds from the return of RecordEvents (the event is on
disk) until the user's answers, asked for every 2 ms, no longer contain the clicked item, while other users send
{fresh.background_per_second:,.0f} events/s. Real server, `feature_sync run` and Valkey, which share all
cores with the probe.

{freshness_table}

## Memory for a remembered event id

Ids share 65,536 sets; the more ids there are, the fewer bytes each takes.

{mark_table}
"""


def _scheduling_group() -> str:
    """Weight of our processes against other processes of the machine (`man 7 sched`, autogroup)."""
    group = Path("/proc/self/autogroup")
    return f"at {group.read_text().partition(' ')[2].strip()}" if group.exists() else "unknown"


def main() -> None:
    """Measures and writes the page, or prints it with --quick."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events", description="The path of an event.")
    parser.add_argument("--quick", action="store_true", help="run for seconds, to see that it works; prints the page")
    options = parser.parse_args()
    page = asyncio.run(measure(quick=options.quick))
    if options.quick:
        print(page)
    else:
        _OUTPUT.write_text(page)
        say(f"wrote {_OUTPUT}")


if __name__ == "__main__":
    main()

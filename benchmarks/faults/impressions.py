"""`python -m benchmarks.faults.impressions`: kills server and feature_sync under load, and counts impressions against a
ledger; writes benchmarks/results/impressions.*.

The ledger is what the store was asked to append and appended, read with MONITOR: nothing that the programs under test
say of themselves. An impression of the ledger that is in no file was lost, one that is there twice was doubled. An
answer without an impression in the ledger was not acknowledged: its worker was killed before it had appended it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from benchmarks.environment.bench import say
from benchmarks.environment.machine import describe_machine
from benchmarks.faults.load import Load
from benchmarks.faults.stack import NUM_ITEMS, NUM_USERS, Stack, registry_with_a_model, running_stack
from tandem.contract import names
from tandem.contract.streams import IMPRESSIONS, applied_key, stream_key
from tests.support.serving import Valkey, wait_until

KINDS: Final = ("worker", "feature_sync", "server")
"""What is killed, in turn."""
_OUTPUT: Final = Path("benchmarks/results/impressions")
_PATIENCE_SECONDS: Final = 120.0
_APPENDED: Final = re.compile(rb'"XADD" "%b" .*?\[\\"([0-9a-f]{32})\\"' % re.escape(stream_key(IMPRESSIONS)))


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of the impressions of one run."""

    kills: Mapping[str, int]
    """Number of kills by what was killed."""
    answers: int
    """Recommend calls that were answered."""
    failed: int
    """Recommend calls that were not, mostly while the only worker was dead."""
    appended: int
    """Impressions in the ledger."""
    appended_again: int
    """Further times that one of them was appended: the server got no reply."""
    archived: int
    lost: int
    """Of the ledger, in no file."""
    doubled: int
    """In files more than once."""
    unappended: int
    """Answers whose worker was killed before it had appended the impression."""


async def measure(stack: Stack, *, num_kills: int, seed: int = 0, pause_seconds: float = 1.5) -> Result:
    """Kills, under load, parts of a running stack whose server has `impressions=stream`; stops the server then."""
    moments = random.Random(seed)
    stop, kills = asyncio.Event(), Counter[str]()
    load = Load(
        port=stack.grpc_port,
        user_ids=[f"user-{number}" for number in range(NUM_USERS)],
        item_ids=[f"item-{number}" for number in range(NUM_ITEMS)],
        recommend_seconds=20.0,
        record_seconds=20.0,
    )
    async with _ledger(stack.store) as ledger:
        loading = asyncio.create_task(load.run(stop))
        try:
            for number in range(num_kills):
                await asyncio.sleep(moments.uniform(0.2, 1.0) * pause_seconds)
                kind = KINDS[number % len(KINDS)]
                await _kill(stack, kind)
                kills[kind] += 1
            await asyncio.sleep(pause_seconds)
        finally:
            stop.set()
            outcomes = await loading
        await stack.stop_server()
        await _until_archived(stack)
    answered = {answer.request_id for answer in outcomes.answers if answer.request_id}
    archived = Counter(_archived(stack.folder / "sync" / IMPRESSIONS))
    return Result(
        kills=dict(kills),
        answers=len(answered),
        failed=sum(outcomes.failures.values()),
        appended=len(ledger),
        appended_again=ledger.total() - len(ledger),
        archived=archived.total(),
        lost=len(ledger.keys() - archived.keys()),
        doubled=sum(count > 1 for count in archived.values()),
        unappended=len(answered - ledger.keys()),
    )


async def _kill(stack: Stack, kind: str) -> None:
    """kill -9, and what an operator's tools do then; a worker is replaced by the supervisor."""
    if kind == "worker":
        os.kill(stack.worker_pids()[0], signal.SIGKILL)
        await wait_until(stack.is_serving, "another worker serves", patience_seconds=_PATIENCE_SECONDS)
    elif kind == "feature_sync":
        await stack.sync.kill()
        await stack.sync.start()
    else:
        await stack.kill_supervisor()
        await stack.stop_server()
        await stack.start_server()


@asynccontextmanager
async def _ledger(store: Valkey) -> AsyncIterator[Counter[str]]:
    """Request ids of the impressions that the store appends during the block, with how often it did."""
    appended: Counter[str] = Counter()
    # Lines are as long as a group's largest impression, escaped.
    reader, writer = await asyncio.open_connection("127.0.0.1", store.port, limit=1 << 24)
    writer.write(b"MONITOR\r\n")
    await reader.readline()

    async def follow() -> None:
        while line := await reader.readline():
            if found := _APPENDED.search(line):
                appended[found[1].decode()] += 1

    following = asyncio.create_task(follow())
    try:
        yield appended
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        writer.close()


async def _until_archived(stack: Stack) -> None:
    async with stack.store.client() as client:

        async def is_empty() -> bool:
            return not await client.xlen(stream_key(IMPRESSIONS)) and not await client.xlen(applied_key(IMPRESSIONS))

        await wait_until(is_empty, "every impression is in a file", patience_seconds=_PATIENCE_SECONDS)


def _archived(folder: Path) -> list[str]:
    files = sorted(folder.glob("day=*/*.parquet"))
    return [request_id for file in files for request_id in pq.ParquetFile(file).read()[names.REQUEST_ID].to_pylist()]


async def run(num_kills: int) -> Result:
    """Measures on a stack of its own."""
    with tempfile.TemporaryDirectory(prefix="tandem-impressions-") as name:
        folder = Path(name)
        registry = registry_with_a_model(folder)
        async with running_stack(folder / "stack", registry, impressions="stream") as stack:
            return await measure(stack, num_kills=num_kills)


def page(result: Result) -> str:
    """The result as a page of Markdown."""
    machine = describe_machine()
    kills = ", ".join(f"{number} of {kind}" for kind, number in result.kills.items())
    return f"""# Impressions under kills

{result.lost} impressions were lost and {result.doubled} doubled in {sum(result.kills.values())} kills (kill -9:
{kills}).

| | |
| --- | --- |
| answers | {result.answers:,} |
| appended to the stream, by the store's own account (MONITOR) | {result.appended:,} |
| of these appended again, because the server got no reply | {result.appended_again:,} |
| in Parquet files | {result.archived:,} |
| **appended, and in no file** | **{result.lost}** |
| **in files more than once** | **{result.doubled}** |
| answered, and never appended: the worker was killed before | {result.unappended} |
| calls that failed, mostly while the only worker was dead | {result.failed} |

`python -m benchmarks.faults.impressions`, {machine["date"]}. {machine["processor"]}, {machine["cores"]} cores, load
average {os.getloadavg()[1]:.1f} over the last five minutes. Valkey that syncs every write, a server with one worker,
`feature_sync run`, 160 `Recommend` and 40 `RecordEvents` calls a second.
"""


def main() -> int:
    """Measures and writes the page; returns 1 if an impression was lost or doubled."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults.impressions", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=_OUTPUT, metavar="PATH", help="path without suffix")
    options = parser.parse_args()
    result = asyncio.run(run(options.kills))
    options.output.with_suffix(".json").write_text(json.dumps(asdict(result), indent=1) + "\n")
    options.output.with_suffix(".md").write_text(page(result))
    say(f"{result}")
    return 1 if result.lost or result.doubled else 0


if __name__ == "__main__":
    sys.exit(main())

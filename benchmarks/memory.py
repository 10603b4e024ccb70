"""Memory of 1, 2 and 3 workers on a catalogue of a million items: what each further worker costs.

`python -m benchmarks.memory [--bundle DIR]` builds a synthetic bundle (IVF4096,SQ8 over 1,000,000 vectors of 128
dimensions) in DIR, or takes the one that is there, and has servers serve it. Every worker answers some requests first,
so that pages which requests touch are counted.

RSS counts pages that workers share once for each of them, so it says nothing about what one more costs. PSS divides a
shared page among those who map it: the growth of its sum, the process that workers are forked from included, is what
the machine has less of. Private pages are a worker's alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from benchmarks.environment.machine import fork_servers
from tandem.contract.bundle import read_bundle
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc
from tests.support.serving import PATIENCE_SECONDS, Server, serve
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

MOST_WORKERS = 3
_REQUESTS_PER_CONNECTION = 20
_CONNECTIONS_PER_WORKER = 8


@dataclass(frozen=True, kw_only=True)
class WorkerMemory:
    """Memory of one worker, in bytes."""

    rss: int
    pss: int
    private: int
    """Pages that no other process maps: of its heap, and of files that it alone has touched."""
    anonymous: int
    """Pages of no file: its heap."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What N workers take."""

    index_bytes: int
    workers: Sequence[WorkerMemory]
    fork_server: WorkerMemory
    """Of the process that workers are forked from: the more workers share its pages, the smaller its part of them."""

    @property
    def pss(self) -> int:
        """Memory of all workers and of their fork server, shared pages once, in bytes."""
        return self.fork_server.pss + sum(worker.pss for worker in self.workers)


def memory_of(pid: int) -> WorkerMemory:
    """What the kernel says of a process. Raises OSError when it is gone."""
    fields = {
        name: int(kilobytes) * 1024
        for name, kilobytes in re.findall(
            r"^(\w+):\s+(\d+) kB$", Path("/proc", str(pid), "smaps_rollup").read_text(), re.MULTILINE
        )
    }
    return WorkerMemory(
        rss=fields["Rss"],
        pss=fields["Pss"],
        private=fields["Private_Clean"] + fields["Private_Dirty"],
        anonymous=fields["Anonymous"],
    )


async def measure(bundle: Path, *, num_workers: int) -> Measurement:
    """Serves a bundle with so many workers, asks each some questions, and measures them."""
    with tempfile.TemporaryDirectory(prefix="tandem-memory-") as folder:
        async with serve(
            Path(folder), bundle_path=bundle, store_url="redis://127.0.0.1:1/0", workers=num_workers
        ) as server:
            await _ask_all(server, num_workers)
            pids = [line["pid"] for line in server.logs if line.get("event") == "worker_listening"]
            workers = [memory_of(pid) for pid in pids]
            (fork_server,) = fork_servers(server.process.pid)
            shared = memory_of(fork_server)
    index_bytes = (bundle / "index.faiss").stat().st_size
    return Measurement(index_bytes=index_bytes, workers=workers, fork_server=shared)


def build(directory: Path) -> None:
    """Builds the synthetic bundle. Takes some minutes and 4 GB."""
    build_tiny_bundle(
        directory,
        TinySpec(model_version="million", num_items=1_000_000, dim=128, num_lists=4096, nprobe=64, quantiser="SQ8"),
    )


async def _ask_all(server: Server, num_workers: int) -> None:
    """The same questions to every worker: the kernel spreads connections, so there are more of them than workers."""
    asked = dict.fromkeys(range(1, num_workers + 1), 0)
    while not all(count >= _CONNECTIONS_PER_WORKER for count in asked.values()):
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{server.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = pb_grpc.RecommendationServiceStub(channel)
            worker = (await stub.GetServingStatus(pb.GetServingStatusRequest(), timeout=PATIENCE_SECONDS)).worker
            if asked[worker] >= _CONNECTIONS_PER_WORKER:
                continue
            for number in range(_REQUESTS_PER_CONNECTION):
                place = asked[worker] * _REQUESTS_PER_CONNECTION + number
                await stub.Recommend(
                    pb.RecommendRequest(recent_item_ids=[f"item-{place * 997}"], num_items=50), timeout=PATIENCE_SECONDS
                )
            asked[worker] += 1


def report(measurements: Sequence[Measurement]) -> str:
    """The measurements as a table in Markdown."""
    index_bytes = measurements[0].index_bytes
    lines = [
        f"Index: {index_bytes / 1e6:.0f} MB. MB per worker; the sum of PSS includes their fork server's.",
        "",
        "| workers | RSS | PSS | private | anonymous | sum of PSS | growth | growth / index |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    before = 0
    for measured in measurements:
        columns = (
            " ".join(f"{getattr(worker, name) / 1e6:.0f}" for worker in measured.workers)
            for name in ("rss", "pss", "private", "anonymous")
        )
        growth = measured.pss - before
        share = f"{growth / 1e6:.0f} | {growth / index_bytes:.0%}" if before else "- | -"
        lines.append(f"| {len(measured.workers)} | {' | '.join(columns)} | {measured.pss / 1e6:.0f} | {share} |")
        before = measured.pss
    return "\n".join(lines)


def main() -> None:
    """Measures and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Memory of further workers.")
    parser.add_argument("--bundle", type=Path, help="folder of the synthetic bundle (default: built anew)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-million-") as folder:
        bundle = options.bundle or Path(folder, "bundle")
        if not bundle.exists():
            build(bundle)
        read_bundle(bundle, verify_checksums=False)
        measurements = [asyncio.run(measure(bundle, num_workers=count)) for count in range(1, MOST_WORKERS + 1)]
    print(report(measurements))
    print(json.dumps([asdict(measured) for measured in measurements]))


if __name__ == "__main__":
    main()

"""Memory of 1, 2 and 3 workers on a catalogue of a million items: the cost of each further worker.

`python -m benchmarks.memory [--bundle DIR]` builds a synthetic bundle (IVF4096,SQ8 over 1,000,000 vectors of 128
dimensions) in DIR, or reuses the bundle there, and serves it. Every worker first answers requests, so the pages that
requests touch are counted.

RSS counts a shared page once for each worker, so it does not show the cost of a further worker. PSS divides a shared
page by the number of processes that map it. The sum of PSS over the workers and the fork server is the memory that
they use, and its growth the cost of a further worker. Private pages are mapped by one worker only.
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
    """Pages that no other process maps: of its heap, and of files that only this worker has touched."""
    anonymous: int
    """Pages that belong to no file: its heap."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Memory of a server with N workers."""

    index_bytes: int
    workers: Sequence[WorkerMemory]
    fork_server: WorkerMemory
    """Memory of the process that workers are forked from. Its share of a page falls with the number of workers."""

    @property
    def pss(self) -> int:
        """Memory of all workers and of their fork server, in bytes; shared pages count once."""
        return self.fork_server.pss + sum(worker.pss for worker in self.workers)


def memory_of(pid: int) -> WorkerMemory:
    """Memory of a process, from /proc. Raises OSError if it has ended."""
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
    """Serves a bundle with `num_workers` workers, sends requests to each, and measures their memory."""
    with tempfile.TemporaryDirectory(prefix="tandem-memory-") as folder:
        async with serve(
            Path(folder), bundle_path=bundle, store_url="redis://127.0.0.1:1/0", workers=num_workers
        ) as server:
            await _send_to_all(server, num_workers)
            pids = [line["pid"] for line in server.logs if line.get("event") == "worker_listening"]
            workers = [memory_of(pid) for pid in pids]
            (fork_server,) = fork_servers(server.process.pid)
            shared = memory_of(fork_server)
    index_bytes = (bundle / "index.faiss").stat().st_size
    return Measurement(index_bytes=index_bytes, workers=workers, fork_server=shared)


def build(directory: Path) -> None:
    """Builds the synthetic bundle, which takes minutes and 4 GB of memory."""
    build_tiny_bundle(
        directory,
        TinySpec(model_version="million", num_items=1_000_000, dim=128, num_lists=4096, nprobe=64, quantiser="SQ8"),
    )


async def _send_to_all(server: Server, num_workers: int) -> None:
    """Sends the same requests to every worker. The kernel picks a connection's worker: connects until each had 8."""
    connections = dict.fromkeys(range(1, num_workers + 1), 0)
    while not all(count >= _CONNECTIONS_PER_WORKER for count in connections.values()):
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{server.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = pb_grpc.RecommendationServiceStub(channel)
            worker = (await stub.GetServingStatus(pb.GetServingStatusRequest(), timeout=PATIENCE_SECONDS)).worker
            if connections[worker] >= _CONNECTIONS_PER_WORKER:
                continue
            for number in range(_REQUESTS_PER_CONNECTION):
                request = connections[worker] * _REQUESTS_PER_CONNECTION + number
                await stub.Recommend(
                    pb.RecommendRequest(recent_item_ids=[f"item-{request * 997}"], num_items=50),
                    timeout=PATIENCE_SECONDS,
                )
            connections[worker] += 1


def report(measurements: Sequence[Measurement]) -> str:
    """The measurements as a Markdown table."""
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
    """Measures; prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Memory of further workers.")
    parser.add_argument(
        "--bundle", type=Path, help="folder of the synthetic bundle, built if missing (default: a temporary folder)"
    )
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

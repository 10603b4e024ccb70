"""`make bench`: throughput of one worker on one core, against an empty grpc.aio handler in the same run.

Everything is real and on loopback: the champion bundle of the local stack (`make run` or `make smoke` makes one), its
users published by `feature_sync` into a Valkey, the server as `python -m inference_server serve` starts it. The server
under test has core 0; Valkey and the load generators share the others. The two servers take turns, and the result is
the ratio pair by pair, because the speed of a shared machine drifts.

h2load sends one body for ever, so several of them run at once, each as another user.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import statistics
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import Server, serve, valkey
from trainer.dataset import load_dataset
from trainer.registry import Registry
from trainer.settings import load_settings

SERVED_CORE = 0
USERS = 8
STREAMS_PER_USER = 4
RETRIEVED = pb.RecommendationSource.Name(pb.RECOMMENDATION_SOURCE_RETRIEVED)
OUTPUT = Path("docs/benchmarks/throughput")


@dataclass(frozen=True)
class Round:
    """Answers per second of both servers, one after the other."""

    empty: float
    tandem: float

    @property
    def ratio(self) -> float:
        return self.tandem / self.empty


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run measured."""

    machine: str
    data: str
    items: int
    users: tuple[str, ...]
    response_bytes: int
    seconds_per_round: int
    rounds: tuple[Round, ...]
    ratio_median: float
    answers_retrieved: int
    """Answers from the two-tower model, warm-up included, as the server counted them."""
    degraded: int
    statuses: dict[str, int]
    """Requests by gRPC status. CANCELLED are those in flight when a load generator's time was over and it hung up."""
    worker_memory_megabytes: float

    @property
    def errors(self) -> int:
        """Requests that ended otherwise than answered, or cancelled by who asked."""
        return sum(count for status, count in self.statuses.items() if status not in {"OK", "CANCELLED"})

    def to_markdown(self) -> str:
        """The result as a page."""
        rows = "\n".join(f"| {r.empty:,.0f} | {r.tandem:,.0f} | {r.ratio:.3f} |" for r in self.rounds)
        return f"""# Throughput of one worker

`make bench`, {self.seconds_per_round} s a round; {self.machine}. {self.data}, {self.items:,} items, {len(self.users)}
users at once with {STREAMS_PER_USER} streams each; server on one core, load and Valkey on the rest. Both servers return
messages of the same size ({self.response_bytes} bytes).

| empty grpc.aio handler, answers/s | Tandem, answers/s | ratio |
| --- | --- | --- |
{rows}

Median ratio **{self.ratio_median:.3f}**. {self.answers_retrieved:,} answers from the model, {self.errors} errors,
{self.degraded} degraded; {self.statuses.get("CANCELLED", 0)} requests were cancelled by load generators whose time was
over. Memory of the worker: {self.worker_memory_megabytes:.0f} MB.
"""


async def measure(*, rounds: int, seconds: int) -> Result:
    """Runs the comparison."""
    settings = load_settings()
    registry = Registry(settings)
    champion = registry.champion()
    if champion is None:
        raise SystemExit("no champion in the registry: run `make smoke` first")
    # Data sets prepared with other options stay in the folder; the newest is the one `make smoke` has just used.
    prepared = max((settings.data_dir / "prepared").iterdir(), key=lambda path: path.stat().st_mtime)
    dataset = load_dataset(prepared)
    by_length = sorted(range(len(dataset.user_ids)), key=lambda user: int(dataset.lengths[user]))
    users = tuple(dataset.user_ids[by_length[len(by_length) * (2 * n + 1) // (2 * USERS)]] for n in range(USERS))
    os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - {SERVED_CORE})
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-bench-")))
        bundle = registry.download(champion, folder / "registry")
        store = await stack.enter_async_context(valkey(folder / "valkey"))
        await _publish(prepared, bundle, store.url)
        with _on_served_core():
            tandem = await stack.enter_async_context(
                serve(folder / "server", bundle_path=bundle, store_url=store.url, deadline_ms=1000)
            )
        response = await _sample_answer(tandem, users[0], folder)
        with _on_served_core():
            empty = await stack.enter_async_context(_empty_server(response))
        before = await tandem.status()
        bodies = [_write_body(user, folder) for user in users]
        measured = []
        for _ in range(rounds):
            measured.append(Round(await _load(empty, bodies, seconds), await _load(tandem.grpc_port, bodies, seconds)))
            print(f"empty {measured[-1].empty:,.0f}/s, Tandem {measured[-1].tandem:,.0f}/s, {measured[-1].ratio:.3f}")
        after = await tandem.status()
        metrics = await tandem.metrics()
        return Result(
            machine=f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            data=str(json.loads((prepared / "prepared.json").read_text())["name"]),
            items=len(dataset.catalogue),
            users=users,
            response_bytes=response.stat().st_size,
            seconds_per_round=seconds,
            rounds=tuple(measured),
            ratio_median=statistics.median(pair.ratio for pair in measured),
            answers_retrieved=after.answers_by_source[RETRIEVED] - before.answers_by_source[RETRIEVED],
            degraded=sum(after.degraded_by_reason.values()) - sum(before.degraded_by_reason.values()),
            statuses=_statuses(metrics),
            worker_memory_megabytes=_resident_bytes(metrics) / 1e6,
        )


async def _publish(prepared: Path, bundle: Path, store_url: str) -> None:
    command = ["-m", "feature_sync", "publish", "--prepared", str(prepared), "--bundle", str(bundle)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env={**os.environ, "TANDEM_STORE_URL": store_url}
    )
    if await process.wait():
        raise SystemExit("feature_sync publish failed")


async def _sample_answer(tandem: Server, user_id: str, folder: Path) -> Path:
    """A real answer, which the empty server will return."""
    answer = await tandem.recommend(user_id=user_id, num_items=10)
    if answer.source != pb.RECOMMENDATION_SOURCE_RETRIEVED or answer.degraded_reasons:
        raise SystemExit(f"the answer to user {user_id} is not a personal one: {answer}")
    path = folder / "response.bin"
    path.write_bytes(answer.SerializeToString())
    return path


@asynccontextmanager
async def _empty_server(response: Path) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.load.empty_server", str(response)), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield int(await process.stdout.readline())
    finally:
        process.terminate()
        await process.wait()


def _write_body(user_id: str, folder: Path) -> Path:
    """A gRPC message as it is framed in HTTP/2: not compressed, its length, its bytes."""
    message = pb.RecommendRequest(user_id=user_id, num_items=10).SerializeToString()
    path = folder / f"request-{user_id}.bin"
    path.write_bytes(struct.pack(">BI", 0, len(message)) + message)
    return path


async def _load(port: int, bodies: Sequence[Path], seconds: int) -> float:
    """Loads a server from one h2load for each body; returns answers per second of all together."""
    processes = [
        await asyncio.create_subprocess_exec(
            *("h2load", "--clients=1", f"--max-concurrent-streams={STREAMS_PER_USER}", f"--duration={seconds}"),
            *("--warm-up-time=1", f"--data={body}", "--header=content-type: application/grpc", "--header=te: trailers"),
            f"http://127.0.0.1:{port}/tandem.v1.RecommendationService/Recommend",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for body in bodies
    ]
    return sum([_rate((await process.communicate())[0].decode()) for process in processes])


def _rate(output: str) -> float:
    """Answers per second, from what h2load printed."""
    finished = re.search(r"finished in [^,]+, ([\d.]+) req/s", output)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", output)
    if not finished or not failed or {*failed.groups()} != {"0"}:
        raise SystemExit(f"h2load failed:\n{output}")
    return float(finished[1])


def _statuses(metrics: str) -> dict[str, int]:
    """Requests by gRPC status, from the text of /metrics."""
    found = re.findall(r'^tandem_requests_total{code="(\w+)"} (\S+)$', metrics, re.MULTILINE)
    return {status: int(float(count)) for status, count in found}


def _resident_bytes(metrics: str) -> float:
    """Resident memory of the worker, from the text of /metrics."""
    found = re.search(r"^tandem_worker_resident_memory_bytes{worker=\"1\"} (\S+)$", metrics, re.MULTILINE)
    assert found is not None
    return float(found[1])


def _processor() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return names[0] if names else platform.machine()


@contextmanager
def _on_served_core() -> Iterator[None]:
    """What is started inside runs on the core of the servers under test, and stays there."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVED_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def main() -> None:
    """Runs the benchmark and writes its two files."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.throughput", description="Throughput of one worker.")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=8, help="seconds of each measurement (default: %(default)s)")
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is missing: apt-get install nghttp2-client")
    result = asyncio.run(measure(rounds=options.rounds, seconds=options.seconds))
    OUTPUT.with_suffix(".json").write_text(json.dumps(asdict(result), indent=2) + "\n")
    OUTPUT.with_suffix(".md").write_text(result.to_markdown())
    print(result.to_markdown())


if __name__ == "__main__":
    main()

"""Load from h2load: several processes with one user each, and the latencies in their logs.

h2load is a C program that keeps a rate on a fraction of a core; a Python client at 1,000 requests a second would be
measured instead of the server. A process of h2load repeats one request body, so every user needs a process.

Latencies per request, from h2load's log (start of sending, microseconds until the end of the response):

- `from_send`: the figure in the log. It leaves out the time that a request waited inside h2load because the server was
  slow, which is called coordinated omission.
- `from_schedule`: from the moment the request was due. A client of h2load releases the k-th request k / rate seconds
  after its first, at ticks of 1 / rate but at least 10 ms, rounded, and catches up after a delay. So the delay
  of a request against that schedule varies within a tick on a healthy server. A delay of up to 1.5 ticks is attributed
  to h2load, and latency counts from the sending. A longer delay means that the request was held up (no free stream, or
  a busy core of the load), and latency counts from the scheduled time. The schedule starts so that no request is early.
"""

from __future__ import annotations

import asyncio
import math
import re
import shutil
import signal
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.load.metrics import Scrape
from tandem.v1 import recommendation_pb2 as pb

RATE_PER_CLIENT: Final = 100
"""Requests per second of a client at which its ticks are shortest."""
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}

_METHOD: Final = "/tandem.v1.RecommendationService/Recommend"
_REQUESTS: Final = re.compile(r"requests: \d+ total, .* (\d+) failed, (\d+) errored, \d+ timeout")
_MAX_PROCESSES: Final = 32
_MIN_TICK_SECONDS: Final = 0.01
_TOLERATED_TICKS: Final = 1.5
_GIVE_UP_SECONDS: Final = 30.0
_SHORTEST_RUN_SECONDS: Final = 0.1
Seconds = npt.NDArray[np.float64]


class H2loadMissing(Exception):
    """The load generator is not installed."""


def require_h2load() -> str:
    """The path of h2load. Raises H2loadMissing."""
    path = shutil.which("h2load")
    if path is None:
        raise H2loadMissing(
            "h2load is missing: install the Debian package nghttp2-client (apt-get install nghttp2-client)"
        )
    return path


@dataclass(frozen=True, kw_only=True)
class Target:
    """The URL, request bodies and headers of a load."""

    url: str
    bodies: Sequence[bytes]
    headers: Mapping[str, str]
    http1: bool = False


def grpc_target(port: int, requests: Sequence[pb.RecommendRequest]) -> Target:
    """`Recommend` over gRPC; every process repeats one of the requests."""
    bodies = [_framed(request.SerializeToString()) for request in requests]
    headers = {"content-type": "application/grpc", "te": "trailers"}
    return Target(url=f"http://127.0.0.1:{port}{_METHOD}", bodies=bodies, headers=headers)


def many_target(port: int, calls: Sequence[pb.RecommendManyRequest]) -> Target:
    """`RecommendMany` over gRPC; every process repeats one of the calls."""
    single = grpc_target(port, ())
    bodies = [_framed(call.SerializeToString()) for call in calls]
    return replace(single, url=f"{single.url}Many", bodies=bodies)


def http_target(port: int, bodies: Sequence[bytes]) -> Target:
    """`POST /v1/recommend` over HTTP/1.1 with JSON."""
    url = f"http://127.0.0.1:{port}/v1/recommend"
    return Target(url=url, bodies=bodies, headers={"content-type": "application/json"}, http1=True)


@dataclass(frozen=True, kw_only=True)
class Load:
    """Rate or concurrency of a load, and its duration."""

    seconds: float
    warm_up_seconds: float = 1.0
    """Part of the load, left out of the latencies. h2load's own warm-up is not used, because it is not logged: its
    requests could not be compared with the server's counts."""
    rate: float | None = None
    """Requests per second of all processes together (open loop); None: a request follows each answer (closed loop)."""
    processes: int = 8
    clients_per_process: int = 1
    """Connections of one process. They tick together, so requests come in bursts of this size."""
    streams_per_client: int = 16
    """Maximum number of requests in flight on a connection; always 1 over HTTP/1.1."""
    reconnect_seconds: float | None = None
    """Lifetime of a process, after which a new process replaces it; None: the whole load. For loads whose server dies:
    h2load sends nothing more once it has lost its connection."""

    @classmethod
    def at_rate(
        cls, rate: float, *, seconds: float, warm_up_seconds: float = 1.0, streams_per_client: int = 100
    ) -> Load:
        """An open loop of at most 32 processes with one connection each: if possible, none exceeds RATE_PER_CLIENT."""
        processes = min(_MAX_PROCESSES, max(2, math.ceil(rate / RATE_PER_CLIENT)))
        return cls(
            seconds=seconds,
            warm_up_seconds=warm_up_seconds,
            rate=rate,
            processes=processes,
            streams_per_client=streams_per_client,
        )

    @classmethod
    def in_flight(cls, count: int, *, seconds: float, warm_up_seconds: float = 1.0) -> Load:
        """A closed loop of `count` requests in flight, on min(8, count) connections."""
        processes = min(8, count)
        return cls(
            seconds=seconds,
            warm_up_seconds=warm_up_seconds,
            processes=processes,
            streams_per_client=max(1, count // processes),
        )


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """Measurements of a load. Arrays are (requests,) float64, ordered by start, without the warm-up."""

    load: Load
    starts: Seconds
    """Seconds since 1970 at which requests were sent."""
    from_send: Seconds
    from_schedule: Seconds
    """Equal to `from_send` in a closed loop, which has no schedule."""
    total_answers: int
    """HTTP answers of status 200, including the warm-up. The server counts them by gRPC status, see `metrics`, except
    for requests that gRPC's transport refuses before the server sees them: they are the difference of the counts."""
    failed: int
    """Requests that ended otherwise, including requests in flight on a lost connection."""
    crashed: int
    """Processes of h2load that crashed when they lost their connection, with requests and log lines that they held."""
    ends: Seconds = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", self.starts + self.from_send)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.starts) / self.load.seconds

    def full_share(self, counted: Scrape) -> float:
        """Share of answers without a degraded reason; `counted` is what the server counted during the load."""
        requests = counted.answered + counted.refused + counted.errors
        return min(1.0, (counted.answered - counted.degraded) / max(1.0, requests, self.total_answers))

    def summary(self) -> dict[str, Any]:
        """The figures that the report shows."""
        result: dict[str, Any] = {
            "answers_per_second": round(self.rate, 1),
            "failed": self.failed,
            "h2load_processes_crashed": self.crashed,
            "connections": self.load.processes * self.load.clients_per_process,
            "streams_per_connection": self.load.streams_per_client,
            "from_send_ms": quantiles_ms(self.from_send),
        }
        if self.load.rate is not None:
            result["offered_per_second"] = round(self.load.rate, 1)
            result["from_schedule_ms"] = quantiles_ms(self.from_schedule)
        return result


def quantiles_ms(seconds: Seconds) -> dict[str, float | None]:
    """P50 to P99.9 and the maximum, in milliseconds, each a measured value; None without measurements."""
    if len(seconds) == 0:
        return dict.fromkeys([*QUANTILES, "max"])
    found = {
        name: round(1e3 * float(np.quantile(seconds, share, method="inverted_cdf")), 3)
        for name, share in QUANTILES.items()
    }
    return {**found, "max": round(1e3 * float(seconds.max()), 3)}


def parse_log(text: str) -> tuple[Seconds, npt.NDArray[np.int64], Seconds]:
    """Parses h2load's log: starts in seconds since 1970, HTTP statuses (-1: failed), durations in seconds.

    All three are (requests,), ordered by start.
    """
    rows = np.array([line.split("\t")[:3] for line in text.splitlines()], dtype=np.int64).reshape(-1, 3)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return rows[:, 0] * 1e-6, rows[:, 1], rows[:, 2] * 1e-6


def due_times(starts: Seconds, *, rate: float, clients: int) -> Seconds:
    """When each request of one process was due: (n,) ascending starts -> (n,), none later than its start.

    The clients of a process tick together, so `clients` requests are due at a time. See the module's docstring.
    """
    interval = clients / rate
    schedule = np.arange(len(starts)) // clients * interval
    schedule += (starts - schedule).min(initial=np.inf)
    return np.where(starts - schedule > _TOLERATED_TICKS * max(_MIN_TICK_SECONDS, interval), schedule, starts)


async def run_load(target: Target, load: Load) -> LoadResult:
    """Sends the load and returns the measurements of all processes."""
    with tempfile.TemporaryDirectory(prefix="tandem-h2load-") as name:
        folder = Path(name)
        runs = [_run_process(target, load, folder, process) for process in range(load.processes)]
        parts = await asyncio.gather(*runs)
    starts, from_send, from_schedule = (
        np.concatenate([getattr(part, column) for part in parts]) for column in ("starts", "from_send", "from_schedule")
    )
    order = np.argsort(starts, kind="stable")
    return LoadResult(
        load=load,
        starts=starts[order],
        from_send=from_send[order],
        from_schedule=from_schedule[order],
        total_answers=sum(part.total_answers for part in parts),
        failed=sum(part.failed for part in parts),
        crashed=sum(part.crashed for part in parts),
    )


@dataclass(frozen=True, kw_only=True)
class _ProcessResult:
    """Measurements of one process."""

    starts: Seconds
    from_send: Seconds
    from_schedule: Seconds
    total_answers: int
    failed: int
    crashed: int


async def _run_process(target: Target, load: Load, folder: Path, process: int) -> _ProcessResult:
    body = folder / f"body-{process}"
    body.write_bytes(target.bodies[process % len(target.bodies)])
    ends_at = time.monotonic() + load.warm_up_seconds + load.seconds
    columns: list[tuple[Seconds, Seconds, Seconds]] = []
    failed = crashed = 0
    while not columns or ends_at - time.monotonic() > _SHORTEST_RUN_SECONDS:
        log = folder / f"log-{process}-{len(columns)}"
        remaining = ends_at - time.monotonic()
        seconds = min(remaining, load.reconnect_seconds or remaining)
        status, output = await _h2load(target, load, body, log, seconds=seconds)
        found = _REQUESTS.search(output)
        if found is not None:
            failed += int(found[1]) + int(found[2])
        elif status == -signal.SIGSEGV and load.reconnect_seconds is not None:
            # h2load 1.52.0 does this when its peer is killed: treated like a lost connection.
            crashed += 1
            await asyncio.sleep(max(0.0, ends_at - remaining + seconds - time.monotonic()))
        else:
            raise RuntimeError(f"h2load ended with status {status}:\n{output}")
        starts, statuses, durations = parse_log(log.read_text() if log.exists() else "")
        due = starts
        if load.rate is not None:
            due = due_times(starts, rate=load.rate / load.processes, clients=load.clients_per_process)
        good = statuses == 200
        columns.append((starts[good], durations[good], (starts + durations - due)[good]))
    starts, from_send, from_schedule = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    measured = starts >= starts.min(initial=np.inf) + load.warm_up_seconds
    return _ProcessResult(
        starts=starts[measured],
        from_send=from_send[measured],
        from_schedule=from_schedule[measured],
        total_answers=len(starts),
        failed=failed,
        crashed=crashed,
    )


async def _h2load(target: Target, load: Load, body: Path, log: Path, *, seconds: float) -> tuple[int | None, str]:
    """Runs one process; returns its exit status and output."""
    process = await asyncio.create_subprocess_exec(
        require_h2load(),
        *(f"--clients={load.clients_per_process}", f"--max-concurrent-streams={load.streams_per_client}"),
        *(f"--duration={math.ceil(1e3 * seconds)}ms", f"--data={body}", f"--log-file={log}"),
        *([f"--rps={load.rate / load.processes / load.clients_per_process}"] if load.rate is not None else []),
        *(["--h1"] if target.http1 else []),
        *(f"--header={name}: {value}" for name, value in target.headers.items()),
        target.url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds + _GIVE_UP_SECONDS):
            output, _ = await process.communicate()
            return process.returncode, output.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _framed(message: bytes) -> bytes:
    """A gRPC message as framed in HTTP/2: uncompressed flag, length, bytes."""
    return struct.pack(">BI", 0, len(message)) + message

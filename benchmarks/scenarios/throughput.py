"""Maximum answers per second of one worker on one core, compared with servers that bound it from above and below.

Closed loop. A sweep over numbers of requests in flight finds, for every server, the number with most full answers while
P99 stays below 50 ms. Then the servers take turns in rounds. The report gives ratios within a round, because the speed
of a shared machine drifts.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.environment.bench import Bench, Tandem, say
from benchmarks.load.h2load import Load, Target, grpc_target, quantiles_ms, run_load
from benchmarks.synthetic.catalogues import BuiltCatalogue
from inference_server.core.process_environment import GRPC_EXPERIMENTS
from tandem.v1 import recommendation_pb2 as pb

MAX_P99_MS: Final = 50.0
MAX_DEGRADED_SHARE: Final = 0.001

_SIZES: Final = ("ml-1m", "1m")
_IN_FLIGHT: Final = (16, 32, 64, 128)
_NAIVE_IN_FLIGHT: Final = (1, 4, 8, 16, 32)
_ROUNDS: Final = 5
_EMPTY_HANDLER: Final = "empty handler"
_FAISS_K: Final = (10, 100)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the servers compared."""

    name: str
    target: Target
    in_flight: Sequence[int]
    tandem: Tandem | None = None


async def throughput(bench: Bench) -> dict[str, Any]:
    """Compares the servers and measures FAISS alone."""
    async with AsyncExitStack() as stack:
        arms = await _start(bench, stack)
        sweeps: dict[str, list[dict[str, Any]]] = {}
        for arm in arms:
            counts = arm.in_flight[:2] if bench.quick else arm.in_flight
            sweeps[arm.name] = [await _measure(arm, count, bench.seconds(2.5, 0.5)) for count in counts]
        chosen = {name: _best(points)["in_flight"] for name, points in sweeps.items()}
        rounds = []
        for number in range(1 if bench.quick else _ROUNDS):
            points = {arm.name: await _measure(arm, chosen[arm.name], bench.seconds(4)) for arm in arms}
            rounds.append(points)
            rates = ", ".join(f"{name} {point['full_answers_per_second']:,.0f}" for name, point in points.items())
            say(f"  round {number + 1}: {rates}")
    faiss = []
    for size in _sizes(bench):
        folder = (await bench.catalogue(size)).bundle.directory.parent
        for k in _FAISS_K:
            run = await bench.output("benchmarks.bounds.faiss_loop", str(folder), str(k), str(bench.seconds(3)))
            faiss.append({"catalogue": size, **run})
    return {
        "max_p99_ms": MAX_P99_MS,
        "sweeps": sweeps,
        "rounds": rounds,
        "medians": {arm.name: _median(arm.name, rounds) for arm in arms},
        "faiss": faiss,
    }


def _sizes(bench: Bench) -> Sequence[str]:
    return _SIZES[:1] if bench.quick else _SIZES


async def _start(bench: Bench, stack: AsyncExitStack) -> list[Arm]:
    """Starts all servers; each idles on the served core until its turn."""
    arms: list[Arm] = []
    naive: list[Arm] = []
    for size in _sizes(bench):
        catalogue = await bench.catalogue(size)
        requests = bench.requests(catalogue)
        tandem = await stack.enter_async_context(bench.tandem(catalogue))
        target = grpc_target(tandem.grpc_port, requests)
        arms.append(Arm(name=f"tandem {size}", target=target, in_flight=_IN_FLIGHT, tandem=tandem))
        port = await stack.enter_async_context(
            bench.program("benchmarks.bounds.naive_server", str(catalogue.bundle.directory), bench.store.url)
        )
        naive.append(Arm(name=f"naive {size}", target=grpc_target(port, requests), in_flight=_NAIVE_IN_FLIGHT))
        if size == _SIZES[0]:
            answer = await _sample_answer(tandem, requests[1], catalogue, bench.folder)
            port = await stack.enter_async_context(bench.program("benchmarks.bounds.empty_server", str(answer)))
            arms.insert(0, Arm(name=_EMPTY_HANDLER, target=grpc_target(port, requests), in_flight=_IN_FLIGHT))
            port = await stack.enter_async_context(
                bench.program("benchmarks.bounds.empty_server", str(answer), GRPC_EXPERIMENTS=GRPC_EXPERIMENTS)
            )
            name = f"{_EMPTY_HANDLER}, gRPC as in the worker"
            arms.insert(1, Arm(name=name, target=grpc_target(port, requests), in_flight=_IN_FLIGHT))
    return [*arms, *naive]


async def _sample_answer(tandem: Tandem, request: pb.RecommendRequest, catalogue: BuiltCatalogue, folder: Path) -> Path:
    """Writes a real, personal answer to a file, for the empty server to return."""
    answer = await tandem.server.recommend(user_id=request.user_id, num_items=request.num_items)
    personal = {pb.RECOMMENDATION_SOURCE_RETRIEVED, pb.RECOMMENDATION_SOURCE_RANKED}
    if answer.source not in personal or answer.model_version != catalogue.bundle.manifest.model_version:
        raise RuntimeError(f"the answer to user {request.user_id} is not personal: {answer}")
    path = folder / "response.bin"
    path.write_bytes(answer.SerializeToString())
    return path


async def _measure(arm: Arm, in_flight: int, seconds: float) -> dict[str, Any]:
    before = await arm.tandem.scrape() if arm.tandem else None
    result = await run_load(arm.target, Load.in_flight(in_flight, seconds=seconds, warm_up_seconds=0.5))
    p99_ms = quantiles_ms(result.from_send)["p99"]
    point: dict[str, Any] = {
        "in_flight": in_flight,
        "answers_per_second": round(result.rate, 1),
        "p50_ms": quantiles_ms(result.from_send)["p50"],
        "p99_ms": p99_ms,
        "failed": result.failed,
    }
    full_share = 1.0
    if arm.tandem and before is not None:
        counted = (await arm.tandem.scrape()).since(before)
        point["server"] = counted.summary()
        point["server"]["share_within_50_ms"] = round(counted.request_seconds.share_within(0.05), 5)
        full_share = result.full_share(counted)
    point["full_answers_per_second"] = round(full_share * result.rate, 1)
    fast = p99_ms is not None and p99_ms < MAX_P99_MS
    point["within_limits"] = fast and not result.failed and full_share >= 1 - MAX_DEGRADED_SHARE
    return point


def _best(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The point with most full answers among the points within the limits, or among all points if none is."""
    within = [point for point in points if point["within_limits"]]
    return max(within or points, key=lambda point: float(point["full_answers_per_second"]))


def _median(name: str, rounds: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    own = [points[name] for points in rounds]
    empty = [points[_EMPTY_HANDLER]["full_answers_per_second"] for points in rounds]
    latencies = [point["p99_ms"] for point in own if point["p99_ms"] is not None]
    ratios = [point["full_answers_per_second"] / limit for point, limit in zip(own, empty, strict=True)]
    return {
        "in_flight": own[0]["in_flight"],
        "full_answers_per_second": statistics.median(point["full_answers_per_second"] for point in own),
        # A server without answers in a round has no latency for it.
        "p99_ms": statistics.median(latencies) if latencies else None,
        "within_limits": all(point["within_limits"] for point in own),
        "ratio_to_empty_handler": round(statistics.median(ratios), 4),
        "ratios_to_empty_handler": [round(ratio, 4) for ratio in ratios],
    }

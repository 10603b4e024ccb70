"""A client at a low rate that reads every answer, which h2load does not.

It records time, status, model version, degraded reasons and latency of each answer. The timelines around events come
from these samples, and the check that no connection gets an answer of an older model after a newer one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import numpy as np

from benchmarks.load.h2load import quantiles_ms
from benchmarks.load.metrics import OK, REFUSED
from tandem.v1 import recommendation_pb2 as pb

_TIMEOUT_SECONDS: Final = 2.0
_PATH: Final = "/tandem.v1.RecommendationService/Recommend"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One answer."""

    due: float
    """Seconds since 1970 at which the request was due."""
    seconds: float
    """Time from `due` to the answer, including the probe's own delay."""
    connection: int
    code: str
    model_version: str = ""
    source: str = ""
    degraded_reasons: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Probe:
    """An open loop of `rate` requests per second, spread over `connections` connections."""

    port: int
    requests: Sequence[pb.RecommendRequest]
    rate: float
    connections: int = 4
    samples: list[Sample] = field(default_factory=list)
    """In the order of the answers."""

    async def run(self) -> None:
        """Sends requests until it is cancelled, then waits for the requests in flight."""
        bodies = [request.SerializeToString() for request in self.requests]
        async with _channels(self.port, self.connections) as channels:
            calls = [channel.unary_unary(_PATH) for channel in channels]  # no serialisers: bytes in, bytes out
            in_flight: set[asyncio.Task[None]] = set()
            first, first_monotonic = time.time(), time.monotonic()
            number = 0
            try:
                while True:
                    await asyncio.sleep(max(0.0, first_monotonic + number / self.rate - time.monotonic()))
                    connection = number % self.connections
                    due = first + number / self.rate
                    call = self._send(calls[connection], bodies[number % len(bodies)], connection, due)
                    task = asyncio.create_task(call)
                    in_flight.add(task)
                    task.add_done_callback(in_flight.discard)
                    number += 1
            finally:
                await asyncio.gather(*in_flight)

    async def _send(self, call: Any, body: bytes, connection: int, due: float) -> None:
        try:
            answer = pb.RecommendResponse.FromString(await call(body, timeout=_TIMEOUT_SECONDS))
        except grpc.aio.AioRpcError as error:
            self.samples.append(
                Sample(due=due, seconds=time.time() - due, connection=connection, code=error.code().name)
            )
            return
        self.samples.append(
            Sample(
                due=due,
                seconds=time.time() - due,
                connection=connection,
                code=OK,
                model_version=answer.model_version,
                source=pb.RecommendationSource.Name(answer.source).removeprefix("RECOMMENDATION_SOURCE_"),
                degraded_reasons=tuple(answer.degraded_reasons),
            )
        )


@asynccontextmanager
async def probing(port: int, requests: Sequence[pb.RecommendRequest], rate: float) -> AsyncIterator[Probe]:
    """Runs a probe during the block. If the probe fails, its exception is raised at the end of the block."""
    probe = Probe(port=port, requests=requests, rate=rate)
    task = asyncio.create_task(probe.run(), name="probe")
    try:
        yield probe
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """The figures that the report shows."""
    codes: dict[str, int] = {}
    for sample in samples:
        codes[sample.code] = codes.get(sample.code, 0) + 1
    answered = [sample for sample in samples if sample.code == OK]
    return {
        "requests": len(samples),
        "codes": codes,
        "errors": sum(count for code, count in codes.items() if code not in {OK, REFUSED}),
        "degraded": sum(bool(sample.degraded_reasons) for sample in answered),
        "model_versions": sorted({sample.model_version for sample in answered}),
        "versions_went_back": versions_went_back(samples),
        "from_schedule_ms": quantiles_ms(np.array([sample.seconds for sample in answered])),
    }


def versions_went_back(samples: Sequence[Sample]) -> int:
    """Number of answers from an older model than an earlier answer on the same connection.

    Requests that overlap in time may be answered on either side of a swap, so they are not compared.
    """
    versions: list[str] = []
    for sample in samples:
        if sample.code == OK and sample.model_version not in versions:
            versions.append(sample.model_version)
    order = {version: index for index, version in enumerate(versions)}
    went_back = 0
    for connection in {sample.connection for sample in samples}:
        own = [sample for sample in samples if sample.connection == connection and sample.code == OK]
        for index, sample in enumerate(own):
            earlier = [s for s in own[max(0, index - 50) : index] if s.due + s.seconds <= sample.due]
            went_back += any(order[s.model_version] > order[sample.model_version] for s in earlier)
    return went_back


@asynccontextmanager
async def _channels(port: int, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    # Without a local pool, the channels of a process share one connection. A lost connection is retried at once, so
    # the end of an outage is the server's, not the end of the client's backoff.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
    options += [("grpc.min_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(count)]
    try:
        yield channels
    finally:
        for channel in channels:
            await channel.close()

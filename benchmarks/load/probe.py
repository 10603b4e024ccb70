"""A slow client that reads every answer: what h2load does not.

It records status, model version, degraded reasons and latency of each answer with its time, which gives the timelines
around events and shows whether the answers of a connection ever went back to an older model.
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
    """From then to the answer, the probe's own lateness included."""
    connection: int
    code: str
    model_version: str = ""
    source: str = ""
    degraded_reasons: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Probe:
    """An open loop of `rate` requests per second, spread over connections of their own."""

    port: int
    requests: Sequence[pb.RecommendRequest]
    rate: float
    connections: int = 4
    samples: list[Sample] = field(default_factory=list)
    """In the order in which answers came."""

    async def run(self) -> None:
        """Sends until it is cancelled, then waits for what is in flight."""
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
                    call = self._ask(calls[connection], bodies[number % len(bodies)], connection, due)
                    task = asyncio.create_task(call)
                    in_flight.add(task)
                    task.add_done_callback(in_flight.discard)
                    number += 1
            finally:
                await asyncio.gather(*in_flight)

    async def _ask(self, call: Any, body: bytes, connection: int, due: float) -> None:
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
    """A probe that runs inside the block. A probe that broke raises when the block ends."""
    probe = Probe(port=port, requests=requests, rate=rate)
    task = asyncio.create_task(probe.run(), name="probe")
    try:
        yield probe
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """For the report."""
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
    """How many answers came from an older model than an answer that the same connection had got before they were due.

    Answers that overlap in time may come from either side of a swap, and are not counted.
    """
    versions: list[str] = []
    for sample in samples:
        if sample.code == OK and sample.model_version not in versions:
            versions.append(sample.model_version)
    age = {version: place for place, version in enumerate(versions)}
    went_back = 0
    for connection in {sample.connection for sample in samples}:
        own = [sample for sample in samples if sample.connection == connection and sample.code == OK]
        for place, sample in enumerate(own):
            earlier = [s for s in own[max(0, place - 50) : place] if s.due + s.seconds <= sample.due]
            went_back += any(age[s.model_version] > age[sample.model_version] for s in earlier)
    return went_back


@asynccontextmanager
async def _channels(port: int, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    # Channels of one process would share one connection. A lost one is tried again at once: an outage's end shall be
    # the server's, not the client's backoff.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
    options += [("grpc.min_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(count)]
    try:
        yield channels
    finally:
        for channel in channels:
            await channel.close()

"""Sends fuzzed calls to a running gRPC server and records how they end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import grpc

from tandem.v1 import recommendation_pb2 as pb
from tests.fuzz.grpc_messages import Messages, Method
from tests.fuzz.outcome import FuzzOutcome, resident_bytes

FAULTS: Final = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS", "ABORTED"})
"""Statuses that say that the server failed."""
_FAULT_NUMBERS: Final = frozenset({2, 10, 13, 15})
_ENDED_WHILE_SENDING: Final = "Internal error from Core"
"""What grpcio's client says of a stream that the server ended, with whatever status, before all messages were sent."""
_CHANNELS: Final = 4
_CALLS_AT_ONCE: Final = 32
_DEADLINE_SECONDS: Final = 60.0
_MAX_TOKENS: Final = 50
_SAMPLES: Final = 20


@dataclass(kw_only=True)
class Outcome(FuzzOutcome):
    """How all calls of a run ended."""

    num_messages: int = 0
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Calls by method and status; entries of a batch, or of RecommendMany, by "METHOD entry" and the number of their
    code."""


async def fuzz(
    address: str,
    *,
    num_messages: int,
    seed: int,
    server_pid: int,
    max_seconds: float = float("inf"),
) -> Outcome:
    """Sends `num_messages` messages, or as many as `max_seconds` allow, to all methods of the server."""
    outcome, messages = Outcome(), Messages(seed)
    started = time.monotonic()
    next_sample = 0

    async def call_on(channel: grpc.aio.Channel) -> None:
        nonlocal next_sample
        while outcome.num_messages < num_messages and time.monotonic() - started < max_seconds:
            if outcome.num_messages >= next_sample:
                next_sample += max(1, num_messages // _SAMPLES)
                outcome.resident_bytes.append(resident_bytes(server_pid))
            method = messages.method()
            payloads = [
                messages.payload(method) for _ in range(messages.count() if method.requests_are_streamed else 1)
            ]
            outcome.num_messages += len(payloads)
            await _call(channel, method, payloads, outcome, messages)

    async with AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            for _ in range(_CHANNELS)
        ]
        await asyncio.gather(*(call_on(channels[number % _CHANNELS]) for number in range(_CALLS_AT_ONCE)))
    outcome.resident_bytes.append(resident_bytes(server_pid))
    outcome.seconds = time.monotonic() - started
    return outcome


async def _call(
    channel: grpc.aio.Channel, method: Method, payloads: Iterable[bytes], outcome: Outcome, messages: Messages
) -> None:
    name = method.path.rpartition("/")[2]
    call = channel.stream_stream(f"/{method.path}")(iter(payloads), timeout=_DEADLINE_SECONDS)
    code, details = "OK", ""
    try:
        async for response in call:
            if name == "Watch":
                call.cancel()  # it would go on for as long as the server does
                break
            _read(name, response, outcome, messages)
    except grpc.aio.AioRpcError as error:
        code, details = error.code().name, error.details() or ""
        if details == _ENDED_WHILE_SENDING:
            code = "ended while the client was sending"
    outcome.codes[name, code] += 1
    if code in FAULTS:
        outcome.add_fault(f"{method.path} {code} {details} {b''.join(payloads)[:300].hex()}")


def _read(name: str, response: bytes, outcome: Outcome, messages: Messages) -> None:
    if name == "RecommendBatch":
        _count(name, pb.RecommendBatchResponse.FromString(response), outcome)
    elif name == "RecommendMany":
        for entry in pb.RecommendManyResponse.FromString(response).outcomes:
            _count(name, entry, outcome)
    elif name == "Recommend":
        token = pb.RecommendResponse.FromString(response).next_page_token
        if token:
            messages.page_tokens.append(token)
            del messages.page_tokens[:-_MAX_TOKENS]


def _count(name: str, entry: pb.RecommendBatchResponse, outcome: Outcome) -> None:
    outcome.codes[f"{name} entry", str(entry.error.code)] += 1
    if entry.error.code in _FAULT_NUMBERS:
        outcome.add_fault(f"{name} entry {entry.error.code} {entry.error.message}")

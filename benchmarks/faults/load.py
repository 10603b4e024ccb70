"""Recommend and RecordEvents calls at fixed rates over many connections, with the outcome of every call.

Open loop: calls are sent on a schedule, whether or not earlier calls have ended, as callers do that know nothing of the
fault.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

_Call = Callable[[Any, str, str], Coroutine[Any, Any, None]]
_CHANNEL_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The outcome of one Recommend call."""

    sent_at: float
    """Seconds of time.monotonic."""
    code: str
    """Name of the gRPC status."""
    degraded: tuple[str, ...] = ()
    request_id: str = ""
    """Empty: the call failed."""


@dataclass(kw_only=True)
class Outcomes:
    """The outcomes of all calls of one load."""

    answers: list[Answer] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    """Ids of the events whose call ended OK."""
    refused: dict[str, str] = field(default_factory=dict)
    """Event id -> gRPC status of its call. Whether the event was recorded is unknown to the caller."""

    @property
    def failures(self) -> Counter[str]:
        """Failed Recommend calls by status."""
        return Counter(answer.code for answer in self.answers if answer.code != "OK")

    @property
    def degraded_reasons(self) -> Counter[str]:
        """Degraded answers by reason; an answer with two reasons counts twice."""
        return Counter(reason for answer in self.answers for reason in answer.degraded)


@dataclass(frozen=True, kw_only=True)
class Load:
    """A load on one address."""

    port: int
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    connections: int = 16
    recommend_per_second: float = 160.0
    record_per_second: float = 40.0
    recommend_seconds: float = 1.0
    """Deadline of a Recommend call."""
    record_seconds: float = 2.0
    """Deadline of a RecordEvents call."""

    async def run(self, stop: asyncio.Event) -> Outcomes:
        """Sends calls until `stop` is set, and waits for the last outcome."""
        outcomes = Outcomes()
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as calls:
            stubs: list[Any] = []
            for _ in range(self.connections):
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=_CHANNEL_OPTIONS)
                stubs.append(pb_grpc.RecommendationServiceStub(await stack.enter_async_context(channel)))

            async def send(call: _Call, per_second: float) -> None:
                async for number in _scheduled(per_second, stop):
                    user_id = self.user_ids[number % len(self.user_ids)]
                    item_id = self.item_ids[number * 7 % len(self.item_ids)]
                    calls.create_task(call(stubs[number % len(stubs)], user_id, item_id))

            async def recommend(stub: Any, user_id: str, _item_id: str) -> None:
                outcomes.answers.append(await _recommend(stub, user_id, self.recommend_seconds))

            async def record(stub: Any, user_id: str, item_id: str) -> None:
                event_id = uuid.uuid4().hex
                code = await _record(stub, _click(event_id, user_id, item_id), self.record_seconds)
                if code == "OK":
                    outcomes.acknowledged.add(event_id)
                else:
                    outcomes.refused[event_id] = code

            await asyncio.gather(send(recommend, self.recommend_per_second), send(record, self.record_per_second))
        return outcomes


async def _scheduled(per_second: float, stop: asyncio.Event) -> AsyncIterator[int]:
    """Numbers from 0 at this rate, until `stop` is set."""
    started = time.monotonic()
    for number in itertools.count():
        await asyncio.sleep(max(0.0, started + number / per_second - time.monotonic()))
        if stop.is_set():
            return
        yield number


async def _recommend(stub: Any, user_id: str, deadline_seconds: float) -> Answer:
    sent_at = time.monotonic()
    code = "OK"
    degraded: tuple[str, ...] = ()
    request_id = ""
    try:
        answer = await stub.Recommend(pb.RecommendRequest(user_id=user_id, num_items=10), timeout=deadline_seconds)
        degraded, request_id = tuple(answer.degraded_reasons), answer.request_id
    except grpc.aio.AioRpcError as error:
        code = error.code().name
    return Answer(sent_at=sent_at, code=code, degraded=degraded, request_id=request_id)


def _click(event_id: str, user_id: str, item_id: str) -> pb.Event:
    now = Timestamp()
    now.GetCurrentTime()
    return pb.Event(event_id=event_id, user_id=user_id, item_id=item_id, type=pb.EVENT_TYPE_CLICK, occurred_at=now)


async def _record(stub: Any, event: pb.Event, deadline_seconds: float) -> str:
    """Returns the name of the gRPC status."""
    try:
        await stub.RecordEvents(pb.RecordEventsRequest(events=[event]), timeout=deadline_seconds)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"

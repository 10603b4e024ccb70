"""RecommendBatch of both clients: any order, errors of single entries, a bounded number of requests in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from tandem.client import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    Query,
    Recommendations,
    Unavailable,
)
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import wait_until
from tests.tandem.client.both_clients import connected
from tests.tandem.client.scripted_server import ScriptedServer, scripted

pytestmark = pytest.mark.process


@dataclass
class BatchServer(ScriptedServer):
    """Answers newest first, once `window` requests wait or the stream has ended; refuses the user "refused"."""

    window: int = 4
    max_answers: int | None = None
    ends_with: grpc.StatusCode = grpc.StatusCode.OK
    max_unanswered: int = 0
    received: list[str] = field(default_factory=list)
    ended: bool = False

    async def RecommendBatch(  # noqa: N802
        self, requests: AsyncIterator[pb.RecommendBatchRequest], context: Any
    ) -> AsyncIterator[pb.RecommendBatchResponse]:
        unanswered: list[pb.RecommendBatchRequest] = []
        all_read = asyncio.Event()

        async def read() -> None:
            async for request in requests:
                unanswered.append(request)
                self.received.append(request.correlation_id)
                self.max_unanswered = max(self.max_unanswered, len(unanswered))
            all_read.set()

        reading = asyncio.create_task(read())
        num_answered = 0
        try:
            while num_answered != self.max_answers:
                await wait_until(lambda: len(unanswered) >= self.window or all_read.is_set(), "more requests")
                if not unanswered:
                    return
                yield self._answer(unanswered.pop())
                num_answered += 1
            if self.ends_with is not grpc.StatusCode.OK:
                await context.abort(self.ends_with, "as scripted")
        finally:
            self.ended = True
            reading.cancel()

    def _answer(self, request: pb.RecommendBatchRequest) -> pb.RecommendBatchResponse:
        response = pb.RecommendBatchResponse(correlation_id=request.correlation_id)
        if request.request.user_id == "refused":
            response.error.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            response.error.message = "num_items: too many"
            response.error.field = "num_items"
        else:
            response.response.model_version = f"for {request.request.user_id}"
        return response


def requests(count: int) -> Iterator[tuple[str, Query]]:
    for number in range(count):
        yield f"id-{number}", Query(user_id=f"u-{number}")


async def test_every_request_is_answered_with_a_bounded_number_in_flight(kind: str) -> None:
    async with (
        scripted(servicer=BatchServer([])) as server,
        connected(kind, server.address, api_key="key") as client,
    ):
        outcomes = [outcome async for outcome in client.recommend_many(requests(50), max_in_flight=4)]
        assert {name: answer.model_version for name, answer in outcomes} == {f"id-{n}": f"for u-{n}" for n in range(50)}
        assert [name for name, _ in outcomes] != [f"id-{n}" for n in range(50)], "in any order"
        assert server.max_unanswered == 4


async def test_a_refused_entry_has_its_own_error(kind: str) -> None:
    batch = {"a": Query(user_id="u"), "b": Query(user_id="refused", num_items=501), "c": Query(user_id="v")}
    async with scripted(servicer=BatchServer([])) as server, connected(kind, server.address) as client:
        outcomes = {name: outcome async for name, outcome in client.recommend_many(batch.items())}
    assert isinstance(outcomes["a"], Recommendations)
    assert isinstance(outcomes["c"], Recommendations)
    assert isinstance(outcomes["b"], InvalidRequest)
    assert (outcomes["b"].field, outcomes["b"].description) == ("num_items", "too many")


async def test_no_requests_no_answers(kind: str) -> None:
    async with scripted(servicer=BatchServer([])) as server, connected(kind, server.address) as client:
        assert [outcome async for outcome in client.recommend_many([])] == []


async def test_a_broken_stream_raises_after_its_answers(kind: str) -> None:
    servicer = BatchServer([], max_answers=2, ends_with=grpc.StatusCode.UNAVAILABLE)
    async with scripted(servicer=servicer) as server, connected(kind, server.address) as client:
        outcomes = client.recommend_many(requests(20), max_in_flight=4)
        for _ in range(2):
            await anext(outcomes)
        with pytest.raises(Unavailable, match=r"as scripted|requests unanswered"):
            await anext(outcomes)


async def test_a_stream_that_ends_too_early_is_an_error(kind: str) -> None:
    servicer = BatchServer([], max_answers=2)  # with status OK
    async with scripted(servicer=servicer) as server, connected(kind, server.address) as client:
        with pytest.raises(Unavailable, match="requests unanswered"):
            _ = [outcome async for outcome in client.recommend_many(requests(20), max_in_flight=4)]


async def test_a_batch_has_a_deadline(kind: str) -> None:
    servicer = BatchServer([], window=100)
    async with scripted(servicer=servicer) as server, connected(kind, server.address) as client:
        with pytest.raises(DeadlineExceeded):
            _ = [outcome async for outcome in client.recommend_many(requests(20), max_in_flight=4, deadline_ms=100)]


async def test_an_error_of_the_callers_iterable_reaches_the_caller(kind: str) -> None:
    def broken() -> Iterator[tuple[str, Query]]:
        yield from requests(2)
        raise LookupError("no more users")

    async with scripted(servicer=BatchServer([])) as server, connected(kind, server.address) as client:
        with pytest.raises(LookupError, match="no more users"):
            _ = [outcome async for outcome in client.recommend_many(broken())]


async def test_a_caller_that_stops_reading_ends_the_batch(kind: str) -> None:
    async with scripted(servicer=BatchServer([])) as server, connected(kind, server.address) as client:
        outcomes = client.recommend_many(requests(1000), max_in_flight=4)
        assert (await anext(outcomes))[0] in {f"id-{n}" for n in range(4)}
        await outcomes.aclose()  # type: ignore[attr-defined]
        await wait_until(lambda: server.ended, "the server notices the cancellation")
        assert len(server.received) < 1000


async def test_closing_the_client_ends_the_batch(kind: str) -> None:
    async with scripted(servicer=BatchServer([], window=100)) as server, connected(kind, server.address) as client:

        async def read() -> None:
            _ = [outcome async for outcome in client.recommend_many(requests(20), max_in_flight=4)]

        reading = asyncio.create_task(read())
        await wait_until(lambda: server.received, "the batch has begun")
        await client.close()
        with pytest.raises(Cancelled):
            await reading


async def test_async_iterables_are_read_too() -> None:
    async def users() -> AsyncIterator[tuple[str, Query]]:
        for request in requests(3):
            yield request

    async with scripted(servicer=BatchServer([])) as server, connected("async", server.address) as client:
        outcomes = [outcome async for outcome in client.recommend_many(users())]
        assert sorted(name for name, _ in outcomes) == ["id-0", "id-1", "id-2"]


@pytest.mark.parametrize(("name", "value"), [("max_in_flight", 0), ("deadline_ms", 0), ("deadline_ms", float("inf"))])
async def test_invalid_bounds(kind: str, name: str, value: float) -> None:
    async with connected(kind, "grpc://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=f"^{name}: "):
            _ = [outcome async for outcome in client.recommend_many(requests(1), **{name: value})]

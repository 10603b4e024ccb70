"""Retries, hedges and deadlines of both clients, against servers that misbehave as scripted."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from deploy.local.ports import free_port
from tandem.client import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    OverCapacity,
    PageExpired,
    RetryPolicy,
    ServerError,
    Unavailable,
)
from tandem.client.errors import EXCEPTION_OF
from tests.support.serving import wait_until
from tests.tandem.client.both_clients import connected
from tests.tandem.client.scripted_server import answers, answers_late, fails, hangs, scripted

pytestmark = pytest.mark.process

UNAVAILABLE = fails(grpc.StatusCode.UNAVAILABLE)
CANCELLED = fails(grpc.StatusCode.CANCELLED)
TRIED_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
ENDS_AT_ONCE = [code for code in EXCEPTION_OF if code not in TRIED_AGAIN]


async def test_two_failures_and_an_answer_are_an_answer(kind: str) -> None:
    async with scripted(UNAVAILABLE, UNAVAILABLE, answers(model_version="m")) as server:
        async with connected(kind, server.address) as client:
            assert (await client.recommend("u")).model_version == "m"
        assert [attempt.request.user_id for attempt in server.attempts] == ["u"] * 3


async def test_a_call_that_the_server_cancels_is_tried_again(kind: str) -> None:
    async with scripted(CANCELLED, answers(model_version="m"), CANCELLED) as server:
        async with connected(kind, server.address) as client:
            assert (await client.recommend("u")).model_version == "m"
            with pytest.raises(Unavailable, match="the server ended the call: CANCELLED") as caught:
                await client.recommend("u")
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert caught.value.num_attempts == 3


async def test_attempts_are_bounded_and_the_error_counts_them(kind: str) -> None:
    async with scripted(UNAVAILABLE) as server, connected(kind, server.address) as client:
        with pytest.raises(Unavailable, match=r"^as scripted$") as caught:
            await client.recommend("u")
        assert caught.value.num_attempts == len(server.attempts) == 3


async def test_the_policy_may_forbid_retries(kind: str) -> None:
    retry = RetryPolicy(max_attempts=1)
    async with scripted(UNAVAILABLE) as server, connected(kind, server.address, retry=retry) as client:
        with pytest.raises(Unavailable):
            await client.recommend("u")
        assert len(server.attempts) == 1


@pytest.mark.parametrize("code", ENDS_AT_ONCE, ids=lambda code: code.name)
async def test_permanent_failures_are_not_retried(kind: str, code: grpc.StatusCode) -> None:
    async with scripted(fails(code)) as server, connected(kind, server.address) as client:
        with pytest.raises(EXCEPTION_OF[code], match=r"^as scripted$") as caught:
            await client.recommend("u")
        assert caught.value.code is code
        assert len(server.attempts) == 1


async def test_the_servers_delay_is_kept(kind: str) -> None:
    crowded = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_seconds=0.2)
    async with scripted(crowded, answers(model_version="m")) as server, connected(kind, server.address) as client:
        assert (await client.recommend("u")).model_version == "m"
        first, second = server.attempts
        assert second.arrived_at_seconds - first.arrived_at_seconds >= 0.2


async def test_a_delay_beyond_the_deadline_is_raised_at_once(kind: str) -> None:
    crowded = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_seconds=3600)
    async with scripted(crowded) as server, connected(kind, server.address) as client:
        with pytest.raises(OverCapacity) as caught:
            await client.recommend("u")
        assert caught.value.retry_after_seconds == 3600
        assert len(server.attempts) == 1


async def test_all_attempts_share_the_deadline(kind: str) -> None:
    later = fails(grpc.StatusCode.UNAVAILABLE, retry_after_seconds=0.7)
    async with scripted(later, hangs()) as server, connected(kind, server.address) as client:
        with pytest.raises(DeadlineExceeded, match="before that UNAVAILABLE: as scripted") as caught:
            await client.recommend("u", deadline_ms=1500)
        assert caught.value.num_attempts == 2
        first, second = (attempt.time_remaining_seconds for attempt in server.attempts)
        assert first <= 1.6, "as gRPC rounds it"
        assert second <= 0.95, "the remaining time, as gRPC rounds it"


async def test_the_clients_own_deadline_is_the_default(kind: str) -> None:
    async with scripted(hangs()) as server, connected(kind, server.address, deadline_ms=300) as client:
        with pytest.raises(DeadlineExceeded):
            await client.status()
        await wait_until(
            lambda: server.attempts and server.attempts[0].cancelled, "the server notices the cancellation"
        )
        assert server.attempts[0].time_remaining_seconds <= 0.4, "as gRPC rounds it"


async def test_extra_attempts_are_limited_to_a_share_of_the_answers(kind: str) -> None:
    retry = RetryPolicy(initial_backoff_ms=0, budget_tokens=3, budget_ratio=0.1)
    script = [UNAVAILABLE] * 23 + [answers()] * 10 + [UNAVAILABLE]
    async with scripted(*script) as server, connected(kind, server.address, retry=retry) as client:
        for _ in range(20):
            with pytest.raises(Unavailable):
                await client.recommend("u")
        assert len(server.attempts) == 20 + 3, "the budget is used up"
        for _ in range(10):
            await client.recommend("u")
        for _ in range(5):
            with pytest.raises(Unavailable):
                await client.recommend("u")
        assert len(server.attempts) == 33 + 5 + 1, "ten answers pay for one more attempt"


@pytest.mark.parametrize("method", ["recommend", "similar_items", "status"])
async def test_the_first_answer_wins_and_the_loser_is_cancelled(kind: str, method: str) -> None:
    async with (
        scripted(hangs(), answers(model_version="m")) as server,
        connected(kind, server.address, hedge_after_ms=10) as client,
    ):
        calls = {
            "recommend": lambda: client.recommend("u"),
            "similar_items": lambda: client.similar_items(["a"]),
            "status": lambda: client.status(),
        }
        assert (await calls[method]()).model_version == "m"
        await wait_until(lambda: server.attempts[0].cancelled, "the loser is cancelled")
        assert len(server.attempts) == 2


async def test_a_failed_hedge_waits_for_the_first_attempt(kind: str) -> None:
    async with (
        scripted(answers_late(0.2), UNAVAILABLE) as server,
        connected(kind, server.address, hedge_after_ms=10) as client,
    ):
        await client.recommend("u")
        assert len(server.attempts) == 2


async def test_hedging_is_off_unless_asked_for(kind: str) -> None:
    async with scripted(answers_late(0.1)) as server, connected(kind, server.address) as client:
        await client.recommend("u")
        assert len(server.attempts) == 1


async def test_later_pages_are_not_hedged(kind: str) -> None:
    async with (
        scripted(answers_late(0.1)) as server,
        connected(kind, server.address, hedge_after_ms=1) as client,
    ):
        await client.recommend("u", page_token="t")
        assert len(server.attempts) == 1


async def test_hedges_use_the_budget(kind: str) -> None:
    retry = RetryPolicy(budget_tokens=1, budget_ratio=0)
    async with (
        scripted(answers_late(0.1)) as server,
        connected(kind, server.address, hedge_after_ms=1, retry=retry) as client,
    ):
        for _ in range(3):
            await client.recommend("u")
        assert len(server.attempts) == 3 + 1


async def test_a_refused_field_is_named(kind: str) -> None:
    step = fails(grpc.StatusCode.INVALID_ARGUMENT, "num_items: is wrong", field="num_items")
    async with scripted(step) as server, connected(kind, server.address) as client:
        with pytest.raises(InvalidRequest, match=r"^num_items: is wrong$") as caught:
            await client.recommend("u", num_items=501)
        assert (caught.value.field, caught.value.description) == ("num_items", "is wrong")
        assert not isinstance(caught.value, PageExpired)


async def test_a_refused_page_token_is_an_expired_page(kind: str) -> None:
    step = fails(grpc.StatusCode.INVALID_ARGUMENT, field="page_token")
    async with scripted(step) as server, connected(kind, server.address) as client:
        with pytest.raises(PageExpired):
            await client.recommend("u", page_token="old")


async def test_a_failure_of_the_server_is_named_by_its_request_id(kind: str) -> None:
    step = fails(grpc.StatusCode.INTERNAL, "internal error, request_id 0123abcd")
    async with scripted(step) as server, connected(kind, server.address) as client:
        with pytest.raises(ServerError) as caught:
            await client.recommend("u")
        assert caught.value.request_id == "0123abcd"


async def test_an_address_without_a_server(kind: str) -> None:
    async with connected(kind, f"grpc://127.0.0.1:{free_port()}") as client:
        with pytest.raises(Unavailable):
            await client.recommend("u")


async def test_ready_once_health_is_serving(kind: str) -> None:
    async with scripted() as server, connected(kind, server.address) as client:
        waiting = asyncio.create_task(client.wait_until_ready(60))
        with pytest.raises(Unavailable, match=r"not ready within 0\.1 s"):
            await client.wait_until_ready(0.1)
        assert not waiting.done()
        await server.set_serving()
        await waiting


async def test_closing_ends_calls_in_flight_and_refuses_new_ones(kind: str) -> None:
    async with scripted(hangs()) as server, connected(kind, server.address) as client:
        call = asyncio.create_task(client.recommend("u"))
        await wait_until(lambda: server.attempts, "the call is in flight")
        await client.close()
        with pytest.raises(Cancelled):
            await call
        with pytest.raises(RuntimeError, match="closed"):
            await client.recommend("u")


async def test_closing_during_a_pause_ends_the_call(kind: str) -> None:
    later = fails(grpc.StatusCode.UNAVAILABLE, retry_after_seconds=0.5)
    async with scripted(later) as server, connected(kind, server.address) as client:
        call = asyncio.create_task(client.recommend("u"))
        await wait_until(lambda: server.attempts, "the first attempt")
        await client.close()
        with pytest.raises(Cancelled):
            await call
        assert len(server.attempts) == 1


async def test_a_cancelled_task_cancels_its_attempts() -> None:
    async with scripted(hangs()) as server, connected("async", server.address, hedge_after_ms=1) as client:
        call = asyncio.create_task(client.recommend("u"))
        await wait_until(lambda: len(server.attempts) == 2, "both attempts are in flight")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await wait_until(
            lambda: all(attempt.cancelled for attempt in server.attempts), "the server notices the cancellation"
        )

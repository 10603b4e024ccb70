"""What a caller may do, and how much of the server it may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from inference_server.core.errors import OverCapacity, PermissionDenied
from inference_server.security.callers import (
    Caller,
    Right,
    caller_name,
    current_caller,
    require_user,
    take_turn_in_bulk,
    taking_turn,
)


@pytest.fixture
def caller() -> Iterator[Caller]:
    one = Caller(name="shop", rights=frozenset({Right.READ}), user_prefix="a-", max_concurrent=2, max_rate=0.0)
    token = current_caller.set(one)
    yield one
    current_caller.reset(token)


def test_without_keys_everything_is_allowed() -> None:
    assert caller_name() == ""
    require_user("anybody")
    take_turn_in_bulk()
    with taking_turn():
        pass


def test_a_caller_has_its_rights_and_its_users(caller: Caller) -> None:
    assert caller_name() == "shop"
    caller.require(Right.READ)
    with pytest.raises(PermissionDenied, match=r"^the key of shop lacks the right record$"):
        caller.require(Right.RECORD)
    require_user("a-1")
    require_user("")
    for user_id in ("b-1", "A-1", "a", " a-1"):
        with pytest.raises(PermissionDenied, match=r"^the key of shop is for users whose ids begin with 'a-'$"):
            require_user(user_id)
    assert (caller.usage.num_calls, caller.usage.num_refused) == (0, 5)


async def test_calls_in_flight_are_limited(caller: Caller) -> None:
    ending = asyncio.Event()

    async def call() -> None:
        with taking_turn():
            await ending.wait()

    calls = [asyncio.create_task(call()) for _ in range(2)]
    await asyncio.sleep(0)
    with (
        pytest.raises(OverCapacity, match=r"^shop has 2 calls in flight here, which is its limit$") as refused,
        taking_turn(),
    ):
        pass
    assert refused.value.retry_after_seconds == 0.1
    ending.set()
    await asyncio.gather(*calls)
    with taking_turn():
        assert caller.usage.in_flight == 1
    assert (caller.usage.num_calls, caller.usage.num_refused, caller.usage.in_flight) == (3, 1, 0)


def test_a_call_that_fails_gives_its_place_back(caller: Caller) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), taking_turn():
            raise ZeroDivisionError
    assert caller.usage.in_flight == 0


def test_calls_a_second_are_limited_and_bulk_entries_are_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    caller = Caller(name="shop", max_rate=2.0)
    token = current_caller.set(caller)
    try:
        take_turn_in_bulk()
        with taking_turn():
            pass
        with pytest.raises(OverCapacity, match="more than 2 calls a second") as refused:
            take_turn_in_bulk()
        assert refused.value.retry_after_seconds == pytest.approx(0.5)
        now[0] += refused.value.retry_after_seconds
        take_turn_in_bulk()
        now[0] += 3600
        for _ in range(2):
            take_turn_in_bulk()
        with pytest.raises(OverCapacity):
            take_turn_in_bulk()
    finally:
        current_caller.reset(token)
    assert (caller.usage.num_calls, caller.usage.num_refused) == (5, 2)


def test_each_query_of_a_call_with_many_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    caller = Caller(name="shop", max_rate=10.0, max_concurrent=4)
    caller.begin(num_queries=8, num_permits=1)
    with pytest.raises(OverCapacity, match="more than 10 calls a second") as refused:
        caller.begin(num_queries=3, num_permits=1)
    assert refused.value.retry_after_seconds == pytest.approx(0.1)
    with pytest.raises(OverCapacity, match="has 1 calls in flight"):
        caller.begin(num_queries=1, num_permits=4)
    caller.end(num_permits=1)
    now[0] += 1
    # More queries than a second allows, and more permits than the caller has: it may run alone, and is made up for.
    caller.begin(num_queries=30, num_permits=5)
    caller.end(num_permits=5)
    with pytest.raises(OverCapacity) as refused:
        caller.take_turn()
    assert refused.value.retry_after_seconds == pytest.approx(2.1)
    now[0] += 2.2
    caller.take_turn()
    assert (caller.usage.num_calls, caller.usage.num_refused, caller.usage.in_flight) == (39, 5, 0)


def test_a_slow_rate_gives_one_call_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    caller = Caller(name="shop", max_rate=0.5)
    caller.take_turn()
    with pytest.raises(OverCapacity) as refused:
        caller.take_turn()
    assert refused.value.retry_after_seconds == pytest.approx(2.0)

"""How a call becomes attempts: deadline, retries, hedge, budget. This module does no input or output.

A plan is a generator that yields the next step, `Start` an attempt or `Wait` for an attempt to end, and is sent the
outcome. The sync and the async client only carry out the steps, so there is one policy, and its tests need no server.

Why not gRPC's built-in retries, configured by a service config: as measured with grpcio 1.85.1, they wait for their own
backoff instead of the delay that the server asks for in google.rpc.RetryInfo (asked for 400 ms, retried after 7 and
10 ms; only the trailer grpc-retry-pushback-ms is read), and a `hedgingPolicy` is silently ignored (one attempt; gRFC A6
says "C-Core except hedging"). Their throttling also does not limit hedges that succeed, and a hedge on every call
doubles the load of a server that is merely slow. gRPC's transparent retries, of requests that no server has seen, stay
on.

Retried are UNAVAILABLE, which CANCELLED counts as unless the client was closed (a server that stops ends calls so), and
RESOURCE_EXHAUSTED if the server says when to retry (otherwise it is gRPC's status for a
message that is too large). Never retried are DEADLINE_EXCEEDED, whose time is over, and INVALID_ARGUMENT, INTERNAL and
all other codes, which would fail again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc

from tandem.client.arguments import integer, invalid, number
from tandem.client.errors import Failure, error_of

_MILLITOKENS: Final = 1000
_READY_POLL_SECONDS: Final = 0.05
_READY_ATTEMPT_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When and how often a call is retried. Raises InvalidArgument, naming the field."""

    max_attempts: int = 3
    """Maximum number of attempts per call, including the first and hedges. 1: no retries."""
    initial_backoff_ms: float = 10.0
    """Upper bound of the pause before the second attempt. Pauses are drawn uniformly between 0 and the bound, so that
    callers that failed together do not retry together."""
    backoff_multiplier: float = 2.0
    """Factor by which the upper bound grows from attempt to attempt."""
    max_backoff_ms: float = 1000.0
    """Limit of the upper bound."""
    budget_tokens: int = 10
    """Size of the retry budget. Every retry or hedge takes a token; without a token the call is not attempted again."""
    budget_ratio: float = 0.1
    """Tokens returned by each answered call: retries and hedges are at most this share of the answers."""

    def __post_init__(self) -> None:
        if integer("max_attempts", self.max_attempts) < 1:
            raise invalid("max_attempts", f"at least 1, not {self.max_attempts}")
        if not number("backoff_multiplier", self.backoff_multiplier) >= 1:
            raise invalid("backoff_multiplier", f"at least 1, not {self.backoff_multiplier}")
        longest = number("max_backoff_ms", self.max_backoff_ms)
        if not 0 <= number("initial_backoff_ms", self.initial_backoff_ms) <= longest:
            raise invalid("initial_backoff_ms", f"0 to max_backoff_ms, not {self.initial_backoff_ms}")
        if integer("budget_tokens", self.budget_tokens) < 0:
            raise invalid("budget_tokens", f"at least 0, not {self.budget_tokens}")
        if not 0 <= number("budget_ratio", self.budget_ratio) <= 1:
            raise invalid("budget_ratio", f"0 to 1, not {self.budget_ratio}")

    def pause_seconds(self, num_attempts: int, failure: Failure) -> float:
        """Pause after the failure of attempt number `num_attempts`: the delay the server asks for, plus backoff."""
        longest_ms = min(self.initial_backoff_ms * self.backoff_multiplier ** (num_attempts - 1), self.max_backoff_ms)
        return (failure.retry_after_seconds or 0.0) + random.uniform(0.0, longest_ms) / 1e3


class RetryBudget:
    """Limits the retries and hedges of a client to a share of its answered calls. Thread-safe.

    A token bucket as in gRPC's retry throttling, but a token is taken for each extra attempt instead of each failure,
    which also limits hedges: a hedge is not a failure.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._lock = threading.Lock()
        # Counted in integer thousandths, so that ten tenths of a token are exactly one token.
        self._capacity = self._left = policy.budget_tokens * _MILLITOKENS
        self._per_answer = round(policy.budget_ratio * _MILLITOKENS)

    def take(self) -> bool:
        """Takes a token for an extra attempt; returns False if none is left."""
        with self._lock:
            if self._left < _MILLITOKENS:
                return False
            self._left -= _MILLITOKENS
            return True

    def answered(self) -> None:
        """Returns `budget_ratio` tokens to the bucket for an answered call."""
        with self._lock:
            self._left = min(self._left + self._per_answer, self._capacity)


@dataclass(frozen=True)
class Start:
    """Begin an attempt with this timeout."""

    timeout_seconds: float


@dataclass(frozen=True)
class Wait:
    """Wait until an attempt ends, at most for this time. If no attempt is in flight, this is a pause."""

    timeout_seconds: float | None
    """None: wait until an attempt ends; its own timeout is the limit."""


@dataclass(frozen=True)
class Answered:
    """An attempt ended with this response."""

    response: Any


Outcome = Answered | Failure | None
"""Sent to a plan: after `Wait`, how an attempt ended, or None if none ended in time; after `Start`, None."""

Plan = Generator[Start | Wait, Outcome, Any]
"""Returns the response or raises TandemError. Attempts that are still in flight at its end are to be cancelled."""


def may_retry(failure: Failure) -> bool:
    """Whether a retry of the same call may succeed. Every call is safe to retry: reads change nothing, and repeated
    writes take effect once."""
    if failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return failure.retry_after_seconds is not None
    return failure.code is grpc.StatusCode.UNAVAILABLE


def attempts(
    policy: RetryPolicy,
    budget: RetryBudget,
    *,
    deadline_seconds: float,
    hedge_after_seconds: float | None,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """The plan of a call. All attempts share `deadline_seconds`: each gets the time that is left.

    With `hedge_after_seconds`, a second attempt starts beside an attempt that has not answered by then, once per call.
    The first answer wins. If an attempt fails with a retryable status while the other is in flight, the plan waits for
    the other.
    """
    give_up_at = clock() + deadline_seconds
    num_attempts = num_in_flight = 1
    failure: Failure | None = None
    yield Start(deadline_seconds)
    while True:
        outcome = yield Wait(hedge_after_seconds)
        if outcome is None:
            hedge_after_seconds = None
            left = give_up_at - clock()
            if left > 0 and num_attempts < policy.max_attempts and budget.take():
                yield Start(left)
                num_attempts += 1
                num_in_flight += 1
            continue
        num_in_flight -= 1
        if isinstance(outcome, Answered):
            budget.answered()
            return outcome.response
        earlier, failure = failure, replace(outcome, num_attempts=num_attempts)
        if not may_retry(failure):
            raise error_of(_with_earlier(failure, earlier))
        if num_in_flight:
            continue
        pause = policy.pause_seconds(num_attempts, failure)
        # If the pause exceeds the time left, the call fails now, not at its deadline.
        if num_attempts >= policy.max_attempts or pause >= give_up_at - clock() or not budget.take():
            raise error_of(failure)
        yield Wait(pause)
        left = give_up_at - clock()
        if left <= 0:
            raise error_of(failure)
        yield Start(left)
        num_attempts += 1
        num_in_flight += 1


def _with_earlier(failure: Failure, earlier: Failure | None) -> Failure:
    """`failure`; if it is DEADLINE_EXCEEDED, its message also says which earlier failure used up the time."""
    if earlier is None or failure.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
        return failure
    return replace(failure, message=f"{failure.message}; before that {earlier.code.name}: {earlier.message}")


def until_ready(
    is_ready: Callable[[Any], bool], *, timeout_seconds: float, clock: Callable[[], float] = time.monotonic
) -> Plan:
    """The plan that polls the server's health until `is_ready(response)`, for at most `timeout_seconds`.

    Raises Unavailable with the last finding when the time is over, and other errors that waiting does not cure at once.
    """
    give_up_at = clock() + timeout_seconds
    found, num_attempts = "not asked", 0
    while (left := give_up_at - clock()) > 0:
        yield Start(min(left, _READY_ATTEMPT_SECONDS))
        num_attempts += 1
        outcome = yield Wait(None)
        if isinstance(outcome, Answered):
            if is_ready(outcome.response):
                return outcome.response
            found = "its health is not SERVING"
        elif outcome is not None:
            if outcome.code not in _CURED_BY_WAITING:
                raise error_of(replace(outcome, num_attempts=num_attempts))
            found = f"{outcome.code.name}: {outcome.message}"
        yield Wait(min(_READY_POLL_SECONDS, max(0.0, give_up_at - clock())))
    raise error_of(
        Failure(
            code=grpc.StatusCode.UNAVAILABLE,
            message=f"not ready within {timeout_seconds:g} s: {found}",
            num_attempts=num_attempts,
        )
    )


_CURED_BY_WAITING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.NOT_FOUND,  # the service is not registered with the health service yet
        grpc.StatusCode.CANCELLED,  # the server is stopping
    }
)

"""How one call becomes attempts: deadline, retries, hedge, budget. No input or output of its own.

A plan is a generator that yields what to do next, `Start` an attempt or `Wait` for one to end, and is sent what
happened. The sync and the async client only carry that out, so there is one policy, and its tests need no server.

Why not the retries that gRPC has built in, with a service config: measured with grpcio 1.85.1, they wait for their
own backoff and not for the delay that the server asks for in google.rpc.RetryInfo (asked for 400 ms, tried again after
7 and 10 ms; only the trailer grpc-retry-pushback-ms is read), and a `hedgingPolicy` is ignored in silence (one attempt;
gRFC A6 says "C-Core except hedging"). Their throttling also leaves hedges that succeed unlimited, and a hedge on every
call doubles the load of a server that is merely slow. What gRPC does without any configuration, sending again a request
that no server has seen, stays on.

What is tried again: UNAVAILABLE, and RESOURCE_EXHAUSTED where the server says when (without that, it is gRPC's word for
a message that is too large). Never DEADLINE_EXCEEDED, whose time is over, nor INVALID_ARGUMENT, INTERNAL and the rest,
which would end alike.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc

from tandem.client.errors import Failure, error_of

_MILLITOKENS: Final = 1000
_READY_POLL_SECONDS: Final = 0.05
_READY_ATTEMPT_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When and how often a call is tried again. Raises ValueError, naming the field."""

    max_attempts: int = 3
    """Attempts of one call, the first and hedges included. 1: never again."""
    initial_backoff_ms: float = 10.0
    """Longest pause before the second attempt; pauses are drawn between 0 and the longest, so that callers who failed
    together do not come back together."""
    backoff_multiplier: float = 2.0
    """What the longest pause grows by from attempt to attempt."""
    max_backoff_ms: float = 1000.0
    """Where it stops growing."""
    budget_tokens: int = 10
    """Extra attempts that a client may make at once: each takes a token, and without one there is none."""
    budget_ratio: float = 0.1
    """Tokens that a call which is answered puts back: extra attempts are at most this share of the answers."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts: at least 1, not {self.max_attempts}")
        if self.backoff_multiplier < 1:
            raise ValueError(f"backoff_multiplier: at least 1, not {self.backoff_multiplier}")
        if not 0 <= self.initial_backoff_ms <= self.max_backoff_ms:
            raise ValueError(f"initial_backoff_ms: 0 to max_backoff_ms, not {self.initial_backoff_ms}")
        if self.budget_tokens < 0:
            raise ValueError(f"budget_tokens: at least 0, not {self.budget_tokens}")
        if not 0 <= self.budget_ratio <= 1:
            raise ValueError(f"budget_ratio: 0 to 1, not {self.budget_ratio}")

    def pause_seconds(self, num_attempts: int, failure: Failure) -> float:
        """How long to wait after attempt number `num_attempts` failed: what the server asks for, and backoff."""
        longest_ms = min(self.initial_backoff_ms * self.backoff_multiplier ** (num_attempts - 1), self.max_backoff_ms)
        return (failure.retry_after_seconds or 0.0) + random.uniform(0.0, longest_ms) / 1e3


class RetryBudget:
    """Bounds the extra attempts of a whole client to a share of its answered calls. Safe to use from any thread.

    A token bucket as in gRPC's retry throttling, but a token is taken for each extra attempt instead of each failure:
    that bounds hedges too, which are no failures.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._lock = threading.Lock()
        # Whole thousandths: ten tenths of a token are one.
        self._most = self._left = policy.budget_tokens * _MILLITOKENS
        self._per_answer = round(policy.budget_ratio * _MILLITOKENS)

    def take(self) -> bool:
        """Takes a token for one extra attempt; False when there is none."""
        with self._lock:
            if self._left < _MILLITOKENS:
                return False
            self._left -= _MILLITOKENS
            return True

    def answered(self) -> None:
        """Puts back the share of a token that an answered call is worth."""
        with self._lock:
            self._left = min(self._left + self._per_answer, self._most)


@dataclass(frozen=True)
class Start:
    """Begin an attempt that ends after this time at the latest."""

    timeout_seconds: float


@dataclass(frozen=True)
class Wait:
    """Wait until an attempt ends, or for this time. Without an attempt in flight it is a pause."""

    timeout_seconds: float | None
    """None: the attempts' own time is the bound."""


@dataclass(frozen=True)
class Answered:
    """An attempt ended with this wire message."""

    response: Any


Outcome = Answered | Failure | None
"""What a plan is sent: how an attempt ended after `Wait`, None when the time was over first, and after `Start`."""

Plan = Generator[Start | Wait, Outcome, Any]
"""Returns the response, or raises TandemError. Attempts still in flight at its end are no longer wanted."""


def may_retry(failure: Failure) -> bool:
    """Whether the same call, made again, may be answered. Reads change nothing, and what writes bring takes effect
    once."""
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
    """The plan of one call: all its attempts share `deadline_seconds`, and each is given what is left of it.

    With `hedge_after_seconds` a second attempt is made beside one that has not answered by then, once per call. The
    first answer wins. While one attempt is in flight, the failure of the other is waited out if it may be retried.
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
        # Whoever cannot wait for as long is told at once, not when the time is over.
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
    """`failure`; where it is only that the time is over, with what used the time up."""
    if earlier is None or failure.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
        return failure
    return replace(failure, message=f"{failure.message}; before that {earlier.code.name}: {earlier.message}")


def until_ready(
    is_ready: Callable[[Any], bool], *, timeout_seconds: float, clock: Callable[[], float] = time.monotonic
) -> Plan:
    """The plan that asks for the server's health until `is_ready` of the response, for `timeout_seconds` at most.

    Raises Unavailable, with what was found last, when the time is over, and other errors that waiting does not cure.
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
        grpc.StatusCode.CANCELLED,  # a server that stops
    }
)

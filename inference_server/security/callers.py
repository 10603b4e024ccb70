"""Callers: what the holder of an API key may do, and how much of the server it may take.

A call goes through `check` of `api_keys`, which gives its `Caller`; `require` asks for the right that the method needs;
and where it is answered, `taking_turn` and `require_user` hold it to the caller's limits. Without API keys there is no
caller, and everything is allowed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from inference_server.core.errors import OverCapacity, PermissionDenied

RETRY_AFTER_SECONDS: Final = 0.1
"""Time after which a caller with too many calls in flight may try again."""


class Right(StrEnum):
    """What a key allows, as the file of keys writes it."""

    READ = "read"
    """Recommendations and similar items."""
    RECORD = "record"
    """Events."""
    CATALOGUE = "catalogue"
    """Changes and removals of items."""
    OPERATE = "operate"
    """The server's status, channelz, and every method that no other right names."""


ALL_RIGHTS: Final = frozenset(Right)

RIGHT_OF_METHOD: Final[Mapping[str, Right]] = {
    "Recommend": Right.READ,
    "RecommendMany": Right.READ,
    "RecommendBatch": Right.READ,
    "SimilarItems": Right.READ,
    "RecordEvents": Right.RECORD,
    "UpsertItems": Right.CATALOGUE,
    "DeleteItems": Right.CATALOGUE,
}
"""The right that a method of the API needs; OPERATE for one that is missing here."""


def right_of(method: str) -> Right:
    """The right that a method of the API needs, by its name."""
    return RIGHT_OF_METHOD.get(method, Right.OPERATE)


@dataclass(slots=True)
class Usage:
    """What a caller does now and has done in this process, under all of its keys."""

    num_calls: int = 0
    num_refused: int = 0
    in_flight: int = 0
    turns: float = math.inf
    """Calls that may begin now; infinite before the first call, below 0 after a call with more queries than that."""
    counted_at_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """The holder of a key."""

    name: str
    rights: frozenset[Right] = ALL_RIGHTS
    user_prefix: str = ""
    """Begin of the ids of the users that the caller may name; empty: all users."""
    max_concurrent: int = 0
    """Maximum number of calls in flight in this process; 0: only the server's own limit. A call with many queries
    counts as one for every few of them, and may always run alone."""
    max_rate: float = 0.0
    """Maximum number of calls a second in this process, a second's calls at once; 0: any number. Each query of a call
    with many counts as a call."""
    usage: Usage = field(default_factory=Usage, compare=False, repr=False)

    def require(self, right: Right) -> None:
        """Raises PermissionDenied if the caller lacks the right."""
        if right not in self.rights:
            self.usage.num_refused += 1
            raise PermissionDenied(f"the key of {self.name} lacks the right {right}")

    def require_user(self, user_id: str) -> None:
        """Raises PermissionDenied if the caller may not name this user; an anonymous visitor is everybody's."""
        if self.user_prefix and user_id and not user_id.startswith(self.user_prefix):
            self.usage.num_refused += 1
            raise PermissionDenied(f"the key of {self.name} is for users whose ids begin with {self.user_prefix!r}")

    def begin(self, *, num_queries: int = 1, num_permits: int = 1) -> None:
        """Counts a call that begins; `end` follows. Raises OverCapacity if the caller has reached one of its limits."""
        usage = self.usage
        if self.max_concurrent and usage.in_flight and usage.in_flight + num_permits > self.max_concurrent:
            usage.num_refused += num_queries
            raise OverCapacity(
                f"{self.name} has {usage.in_flight} calls in flight here, which is its limit",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self.take_turn(num_queries)
        usage.in_flight += num_permits

    def end(self, *, num_permits: int = 1) -> None:
        """Counts a call that has ended."""
        self.usage.in_flight -= num_permits

    def take_turn(self, num_queries: int = 1) -> None:
        """Counts queries against the rate alone. Raises OverCapacity.

        More queries than a second allows begin when a second's turns are there, and later calls wait until their turns
        are made up for.
        """
        usage = self.usage
        if self.max_rate:
            now, most = time.monotonic(), max(self.max_rate, 1.0)
            gained = (now - usage.counted_at_seconds) * self.max_rate
            usage.turns = min(most, usage.turns + gained)
            usage.counted_at_seconds = now
            needed = min(float(num_queries), most)
            if usage.turns < needed:
                usage.num_refused += num_queries
                raise OverCapacity(
                    f"{self.name} makes more than {self.max_rate:g} calls a second here, which is its limit",
                    retry_after_seconds=(needed - usage.turns) / self.max_rate,
                )
            usage.turns -= num_queries
        usage.num_calls += num_queries


current_caller: ContextVar[Caller | None] = ContextVar("current_caller", default=None)
"""The caller of the current request; None when authentication is off."""


def caller_name() -> str:
    """The name of the current request's caller; empty when authentication is off."""
    caller = current_caller.get()
    return "" if caller is None else caller.name


@contextmanager
def taking_turn(*, num_queries: int = 1, num_permits: int = 1) -> Iterator[None]:
    """The block is one call of the current caller. Raises OverCapacity before it begins.

    A call with many queries counts as `num_queries` calls against the caller's rate, and as `num_permits` in flight.
    """
    caller = current_caller.get()
    if caller is None:
        yield
        return
    caller.begin(num_queries=num_queries, num_permits=num_permits)
    try:
        yield
    finally:
        caller.end(num_permits=num_permits)


def require_user(user_id: str) -> None:
    """Raises PermissionDenied if the current caller may not name this user."""
    if (caller := current_caller.get()) is not None:
        caller.require_user(user_id)


def take_turn_in_bulk() -> None:
    """Counts a bulk entry of the current caller against its rate alone: entries wait for room by themselves. Raises
    OverCapacity."""
    if (caller := current_caller.get()) is not None:
        caller.take_turn()

"""Admission: is the request well-formed, is there room for it, what answers it, and by when.

Refusing costs as little as possible and happens before anything else: a permit is never waited for by a `Recommend`
call. Bulk entries wait for one, may hold a part of them only, and so never take the place of a call that a person waits
for.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from inference_server.errors import DeadlineTooShort, InvalidRequest, NoModel, OverCapacity, UnknownScenario
from inference_server.page_token import request_fingerprint
from inference_server.policies import PolicyFile
from inference_server.policy import Policy
from inference_server.query import NO_FILTER, AttributePredicate, ItemFilter, Query
from inference_server.serving_model import ModelSlot, ServingModel
from tandem.contract.store import MAX_ID_BYTES
from tandem.contract.vocabulary import Rows

if TYPE_CHECKING:
    from inference_server.stages.answer import Answer

DEFAULT_NUM_ITEMS: Final = 10
MAX_NUM_ITEMS: Final = 500
MAX_IDS: Final = 1000
"""Longest list of item ids in a request, but for the excluded ones."""
MAX_EXCLUDED_IDS: Final = 10_000
MAX_CATEGORIES: Final = 100
"""Longest list of categories in a request."""
MAX_ATTRIBUTES: Final = 32
"""Most attribute predicates in a request."""
MAX_ATTRIBUTE_VALUES: Final = 1000
"""Longest list of values in an attribute predicate."""
MAX_CONTEXT_ENTRIES: Final = 32

MIN_BUDGET_SECONDS: Final = 0.001
"""Least time in which even the list of popular items can be put on the wire."""
RETRY_AFTER_SECONDS: Final = 0.1
"""What a refused caller is told to wait: a few times as long as the requests in flight may still take."""
_BULK_PATIENCE: Final = 20.0
"""A bulk entry may take so many times as long as a call: it lets others pass, and nobody watches."""
_BULK_SHARE: Final = 0.25
"""Share of the permits that bulk entries may hold together."""
Lap = tuple[str, int, int]
"""A stage, its start and its end, in nanoseconds since 1970."""
_NO_ROWS: Final[Rows] = np.empty(0, dtype=np.int64)


class Caller:
    """Who waits for an answer: gone when the call was cancelled, or when it got an answer from memory in time."""

    __slots__ = ("_reply",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._reply: asyncio.Future[Answer | None] = loop.create_future()

    @property
    def gone(self) -> bool:
        """Whether work for this caller is of no use any more."""
        return self._reply.done()

    def deliver(self, answer: Answer | None) -> None:
        """Hands over an answer; None: there will be none in time. To a caller who is gone, nothing happens."""
        if not self._reply.done():
            self._reply.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Hands over an error."""
        if not self._reply.done():
            self._reply.set_exception(error)

    def wait(self) -> asyncio.Future[Answer | None]:
        """What to await."""
        return self._reply


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """A request that will be answered."""

    request_id: str
    query: Query
    num_items: int
    policy: Policy
    model: ServingModel
    """What answers: chosen once, so that no answer mixes two."""
    caller: Caller
    admitted_at: float
    """time.monotonic seconds."""
    deadline: float
    """time.monotonic seconds."""
    fingerprint: bytes
    """What a page token is bound to."""
    shown_rows: Rows = field(default_factory=_NO_ROWS.copy)
    """(n,) int64: what earlier pages showed, as `Catalogue.lasting_rows` numbers it."""
    laps: list[Lap] | None = None
    """The stages that the request went through, in their order; None where nobody wants to know."""


class Admission:
    """Hands out a bounded number of permits."""

    def __init__(
        self, models: ModelSlot, policies: PolicyFile, *, max_concurrent_requests: int, max_seconds: float
    ) -> None:
        """`max_seconds` caps every deadline."""
        self._models = models
        self._policies = policies
        self._free_permits = max_concurrent_requests
        self._max_concurrent_requests = max_concurrent_requests
        self._max_seconds = max_seconds
        self._max_bulk_seconds = _BULK_PATIENCE * max_seconds
        self._max_bulk = max(1, int(_BULK_SHARE * max_concurrent_requests))
        self._bulk_in_flight = 0
        self._bulk_waiting: deque[asyncio.Future[None]] = deque()

    @property
    def in_flight(self) -> int:
        """Requests that hold a permit."""
        return self._max_concurrent_requests - self._free_permits

    def model(self) -> ServingModel:
        """What answers requests admitted now. Raises NoModel."""
        model = self._models.current
        if model is None:
            raise NoModel("no model has been loaded yet")
        return model

    def admit(self, query: Query, time_remaining_seconds: float | None, *, traced: bool = False) -> Admitted:
        """Takes a permit for a request, to be given back with `release`. Takes none when it raises.

        `time_remaining_seconds` is what the caller's deadline leaves; None where there is no deadline.

        Raises OverCapacity, InvalidRequest, NoModel, DeadlineTooShort.
        """
        self.take_permit()
        try:
            return self._admitted(query, self.seconds_allowed(time_remaining_seconds), traced=traced)
        except BaseException:
            self.release()
            raise

    async def admit_bulk(self, query: Query) -> Admitted:
        """Waits for a permit of the share that bulk entries have. Give it back with `release_bulk`.

        Raises InvalidRequest, NoModel.
        """
        while self._bulk_in_flight >= self._max_bulk or self._free_permits <= self._max_concurrent_requests // 2:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._bulk_waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._wake_one()  # this turn was given and is not taken: it is the next one's
                raise
        self._free_permits -= 1
        self._bulk_in_flight += 1
        try:
            return self._admitted(query, self._max_bulk_seconds, traced=False)
        except BaseException:
            self.release_bulk()
            raise

    def take_permit(self) -> None:
        """Raises OverCapacity where all are taken."""
        if self._free_permits == 0:
            raise OverCapacity(
                f"{self._max_concurrent_requests} requests are in flight", retry_after_seconds=RETRY_AFTER_SECONDS
            )
        self._free_permits -= 1

    def release(self) -> None:
        """Gives a permit back."""
        self._free_permits += 1
        if self._bulk_waiting and self._free_permits > self._max_concurrent_requests // 2:
            self._wake_one()

    def release_bulk(self) -> None:
        """Gives the permit of a bulk entry back."""
        self._bulk_in_flight -= 1
        self._free_permits += 1
        self._wake_one()

    def seconds_allowed(self, time_remaining_seconds: float | None) -> float:
        """The caller's time, capped. Raises DeadlineTooShort."""
        budget_seconds = self._max_seconds
        if time_remaining_seconds is not None and time_remaining_seconds < budget_seconds:
            budget_seconds = time_remaining_seconds
        if budget_seconds < MIN_BUDGET_SECONDS:
            raise DeadlineTooShort(f"{budget_seconds * 1e3:.2f} ms are left, too little for any answer")
        return budget_seconds

    def _wake_one(self) -> None:
        while self._bulk_waiting:
            turn = self._bulk_waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _admitted(self, query: Query, seconds: float, *, traced: bool) -> Admitted:
        _validate(query)
        model = self.model()
        try:
            policy = self._policies.current.policy(query.scenario)
        except UnknownScenario as error:
            raise InvalidRequest("scenario", str(error)) from error
        fingerprint = request_fingerprint(query)
        shown_rows = model.page_tokens.open(query.page_token, fingerprint) if query.page_token else _NO_ROWS
        now = time.monotonic()
        return Admitted(
            request_id=new_request_id(),
            query=query,
            num_items=query.num_items or DEFAULT_NUM_ITEMS,
            policy=policy,
            model=model,
            caller=Caller(asyncio.get_running_loop()),
            admitted_at=now,
            deadline=now + seconds,
            fingerprint=fingerprint,
            shown_rows=shown_rows,
            laps=[] if traced else None,
        )


def new_request_id() -> str:
    """32 hexadecimal digits."""
    return os.urandom(16).hex()


def validate_num_items(num_items: int) -> None:
    """Raises InvalidRequest."""
    if not 0 <= num_items <= MAX_NUM_ITEMS:
        raise InvalidRequest("num_items", f"must be in 0..{MAX_NUM_ITEMS}, is {num_items}")


def validate_list(field_path: str, values: Sequence[str], max_values: int, *, first: int = 0) -> None:
    """Raises InvalidRequest for a list that is too long, or has an entry that is empty or too long.

    `first` is the place of the first value, where these are a part of a list.
    """
    if len(values) > max_values:
        raise InvalidRequest(field_path, f"must have at most {max_values} entries, has {len(values)}")
    lengths = set(map(len, values))
    if not lengths or (min(lengths) > 0 and _MAX_BYTES_OF_CHARACTER * max(lengths) <= MAX_ID_BYTES):
        return
    for place, value in enumerate(values, start=first):
        if not value:
            raise InvalidRequest(field_path, f"entry {place} is empty")
        if is_too_long(value):
            raise InvalidRequest(field_path, f"entry {place} must have at most {MAX_ID_BYTES} bytes of UTF-8")


def validate_filter(item_filter: ItemFilter) -> None:
    """Raises InvalidRequest. Entries of a long exclude list are looked at when its rows are first looked up."""
    if len(item_filter.exclude_item_ids) > MAX_EXCLUDED_IDS or not item_filter.exclude_digest:
        validate_list("filter.exclude_item_ids", item_filter.exclude_item_ids, MAX_EXCLUDED_IDS)
    if item_filter.include_categories:
        validate_list("filter.include_categories", item_filter.include_categories, MAX_CATEGORIES)
    if item_filter.exclude_categories:
        validate_list("filter.exclude_categories", item_filter.exclude_categories, MAX_CATEGORIES)
    if len(item_filter.attributes) > MAX_ATTRIBUTES:
        count = len(item_filter.attributes)
        raise InvalidRequest("filter.attributes", f"must have at most {MAX_ATTRIBUTES} entries, has {count}")
    for place, predicate in enumerate(item_filter.attributes):
        _validate_predicate(f"filter.attributes[{place}]", predicate)


def _validate(query: Query) -> None:
    validate_num_items(query.num_items)
    if is_too_long(query.user_id):
        raise InvalidRequest("user_id", f"must have at most {MAX_ID_BYTES} bytes of UTF-8")
    if query.recent_item_ids:
        validate_list("recent_item_ids", query.recent_item_ids, MAX_IDS)
    if query.filter is not NO_FILTER:
        validate_filter(query.filter)
    if query.diversity is not None and not 0.0 <= query.diversity <= 1.0:
        raise InvalidRequest("diversity", f"must be in 0..1, is {query.diversity}")
    if query.context:
        if len(query.context) > MAX_CONTEXT_ENTRIES:
            raise InvalidRequest("context", f"must have at most {MAX_CONTEXT_ENTRIES} entries")
        for name, value in query.context.items():
            if is_too_long(name) or is_too_long(value):
                raise InvalidRequest("context", f"a key or value has more than {MAX_ID_BYTES} bytes of UTF-8")


def _validate_predicate(field_path: str, predicate: AttributePredicate) -> None:
    if not predicate.name:
        raise InvalidRequest(f"{field_path}.name", "is empty")
    if is_too_long(predicate.name):
        raise InvalidRequest(f"{field_path}.name", f"must have at most {MAX_ID_BYTES} bytes of UTF-8")
    validate_list(f"{field_path}.any_of", predicate.any_of, MAX_ATTRIBUTE_VALUES)
    validate_list(f"{field_path}.none_of", predicate.none_of, MAX_ATTRIBUTE_VALUES)
    for name, bound in (("min", predicate.min), ("max", predicate.max)):
        if bound is not None and bound != bound:
            raise InvalidRequest(f"{field_path}.{name}", "is not a number")


_MAX_BYTES_OF_CHARACTER: Final = 4
"""In UTF-8."""


def is_too_long(text: str) -> bool:
    """Whether a text has more than MAX_ID_BYTES bytes of UTF-8."""
    # Short texts need no encoding to be measured.
    return len(text) * _MAX_BYTES_OF_CHARACTER > MAX_ID_BYTES and len(text.encode()) > MAX_ID_BYTES

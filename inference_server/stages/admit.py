"""Admission: is the request well-formed, is there room for it, what answers it, and by when.

Refusing costs as little as possible and happens before anything else: a permit is never waited for.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Final

from inference_server.errors import DeadlineTooShort, InvalidRequest, NoModel, OverCapacity
from inference_server.query import Query
from inference_server.serving_model import ModelSlot, ServingModel
from tandem.contract.store import MAX_ID_BYTES

DEFAULT_NUM_ITEMS: Final = 10
MAX_NUM_ITEMS: Final = 500
MAX_IDS: Final = 1000
"""Longest list of item ids in a request."""
MAX_CATEGORIES: Final = 100
"""Longest list of categories in a request."""
MAX_EXCLUDED_IDS: Final = 10_000
"""Longest list of items that a request excludes."""
MAX_ATTRIBUTES: Final = 32
"""Most conditions on attributes in a request."""
MAX_ATTRIBUTE_VALUES: Final = 1000
"""Longest list of values in one of them."""
MAX_CONTEXT_ENTRIES: Final = 32
"""Most entries of a request's context."""

MIN_BUDGET_SECONDS: Final = 0.001
"""Least time in which even the list of popular items can be put on the wire."""
RETRY_AFTER_SECONDS: Final = 0.1
"""What a refused caller is told to wait: a few times as long as the requests in flight may still take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """A request that will be answered."""

    request_id: str
    query: Query
    num_items: int
    model: ServingModel
    """What answers: chosen once, so that no answer mixes two."""
    admitted_at: float
    """time.monotonic seconds."""
    deadline: float
    """time.monotonic seconds."""


class Admission:
    """Hands out a bounded number of permits."""

    def __init__(self, models: ModelSlot, *, max_concurrent_requests: int, max_seconds: float) -> None:
        """`max_seconds` caps every deadline."""
        self._models = models
        self._free_permits = max_concurrent_requests
        self._max_concurrent_requests = max_concurrent_requests
        self._max_seconds = max_seconds

    @property
    def in_flight(self) -> int:
        """Requests that hold a permit."""
        return self._max_concurrent_requests - self._free_permits

    def admit(self, query: Query, time_remaining_seconds: float | None) -> Admitted:
        """Takes a permit for a request, to be given back with `release`. Takes none when it raises.

        `time_remaining_seconds` is what the caller's deadline leaves; None where there is no deadline.

        Raises OverCapacity, InvalidRequest, NoModel, DeadlineTooShort.
        """
        if self._free_permits == 0:
            raise OverCapacity(
                f"{self._max_concurrent_requests} requests are in flight", retry_after_seconds=RETRY_AFTER_SECONDS
            )
        _validate(query)
        model = self._models.current
        if model is None:
            raise NoModel("no model has been loaded yet")
        budget_seconds = self._max_seconds
        if time_remaining_seconds is not None and time_remaining_seconds < budget_seconds:
            budget_seconds = time_remaining_seconds
        if budget_seconds < MIN_BUDGET_SECONDS:
            raise DeadlineTooShort(f"{budget_seconds * 1e3:.2f} ms are left, too little for any answer")
        self._free_permits -= 1
        now = time.monotonic()
        return Admitted(
            request_id=os.urandom(16).hex(),
            query=query,
            num_items=query.num_items or DEFAULT_NUM_ITEMS,
            model=model,
            admitted_at=now,
            deadline=now + budget_seconds,
        )

    def release(self) -> None:
        """Gives a permit back."""
        self._free_permits += 1


def _validate(query: Query) -> None:
    if not 0 <= query.num_items <= MAX_NUM_ITEMS:
        raise InvalidRequest("num_items", f"must be in 0..{MAX_NUM_ITEMS}, is {query.num_items}")
    if _is_too_long(query.user_id):
        raise InvalidRequest("user_id", f"must have at most {MAX_ID_BYTES} bytes of UTF-8")
    if query.recent_item_ids:
        _validate_list("recent_item_ids", query.recent_item_ids, MAX_IDS)
    item_filter = query.filter
    if item_filter.exclude_item_ids:
        _validate_list("filter.exclude_item_ids", item_filter.exclude_item_ids, MAX_IDS)
    if item_filter.include_categories:
        _validate_list("filter.include_categories", item_filter.include_categories, MAX_CATEGORIES)
    if item_filter.exclude_categories:
        _validate_list("filter.exclude_categories", item_filter.exclude_categories, MAX_CATEGORIES)


def _validate_list(field: str, values: tuple[str, ...], max_values: int) -> None:
    if len(values) > max_values:
        raise InvalidRequest(field, f"must have at most {max_values} entries, has {len(values)}")
    for place, value in enumerate(values):
        if not value:
            raise InvalidRequest(field, f"entry {place} is empty")
        if _is_too_long(value):
            raise InvalidRequest(field, f"entry {place} must have at most {MAX_ID_BYTES} bytes of UTF-8")


def _is_too_long(text: str) -> bool:
    # Four bytes are the most that a character takes, so short texts need no encoding to be measured.
    return len(text) * 4 > MAX_ID_BYTES and len(text.encode()) > MAX_ID_BYTES

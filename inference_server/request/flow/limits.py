"""Limits of a request, and the checks of its fields against them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from inference_server.core.errors import InvalidRequest
from inference_server.core.query import NO_FILTER, AttributePredicate, ItemFilter, Query
from tandem.contract.store import MAX_ID_BYTES

DEFAULT_NUM_ITEMS: Final = 10

MAX_NUM_ITEMS: Final = 500

MAX_IDS: Final = 1000
"""Longest list of item ids in a request, except for `exclude_item_ids`."""

MAX_EXCLUDED_IDS: Final = 10_000

MAX_CATEGORIES: Final = 100
"""Longest list of categories in a request."""

MAX_ATTRIBUTES: Final = 32
"""Maximum number of attribute predicates in a request."""

MAX_ATTRIBUTE_VALUES: Final = 1000
"""Longest list of values in an attribute predicate."""

MAX_CONTEXT_ENTRIES: Final = 32

MAX_QUERIES: Final = 256
"""Maximum number of queries in one RecommendMany call."""

MAX_ITEMS_OF_MANY: Final = 25_600
"""Maximum number of items that the queries of one RecommendMany call ask for together: 100 for each of 256. With
explanations and short ids, they are 3.8 MB over gRPC, where most clients take 4 MiB by default, and 7.3 MB of JSON."""


def new_request_id() -> str:
    """32 hexadecimal digits."""
    return os.urandom(16).hex()


def validate_num_items(num_items: int) -> None:
    """Raises InvalidRequest."""
    if not 0 <= num_items <= MAX_NUM_ITEMS:
        raise InvalidRequest("num_items", f"must be in 0..{MAX_NUM_ITEMS}, is {num_items}")


def validate_list(field_path: str, values: Sequence[str], max_values: int, *, first_index: int = 0) -> None:
    """Raises InvalidRequest for a list that is too long, or has an entry that is empty or too long.

    `first_index` is the index of the first value in the field, where `values` is a part of it.
    """
    if len(values) > max_values:
        raise InvalidRequest(field_path, f"must have at most {max_values} entries, has {len(values)}")
    lengths = set(map(len, values))
    if not lengths or (min(lengths) > 0 and _MAX_BYTES_PER_CHARACTER * max(lengths) <= MAX_ID_BYTES):
        return
    for index, value in enumerate(values, start=first_index):
        if not value:
            raise InvalidRequest(field_path, f"entry {index} is empty")
        if is_too_long(value):
            raise InvalidRequest(field_path, f"entry {index} must have at most {MAX_ID_BYTES} bytes of UTF-8")


def validate_filter(item_filter: ItemFilter) -> None:
    """Raises InvalidRequest. The entries of a long exclude list are checked when their keys are computed."""
    if len(item_filter.exclude_item_ids) > MAX_EXCLUDED_IDS or not item_filter.exclude_digest:
        validate_list("filter.exclude_item_ids", item_filter.exclude_item_ids, MAX_EXCLUDED_IDS)
    if item_filter.include_categories:
        validate_list("filter.include_categories", item_filter.include_categories, MAX_CATEGORIES)
    if item_filter.exclude_categories:
        validate_list("filter.exclude_categories", item_filter.exclude_categories, MAX_CATEGORIES)
    if len(item_filter.attributes) > MAX_ATTRIBUTES:
        count = len(item_filter.attributes)
        raise InvalidRequest("filter.attributes", f"must have at most {MAX_ATTRIBUTES} entries, has {count}")
    for index, predicate in enumerate(item_filter.attributes):
        _validate_predicate(f"filter.attributes[{index}]", predicate)


def validate_query(query: Query) -> None:
    """Raises InvalidRequest for a field outside its limits."""
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
    if predicate.min is not None and predicate.max is not None and predicate.min > predicate.max:
        raise InvalidRequest(f"{field_path}.min", f"is {predicate.min:g}, above max {predicate.max:g}")


_MAX_BYTES_PER_CHARACTER: Final = 4
"""In UTF-8."""


def is_too_long(text: str) -> bool:
    """Whether a text has more than MAX_ID_BYTES bytes of UTF-8."""
    # Short texts need no encoding to be measured.
    return len(text) * _MAX_BYTES_PER_CHARACTER > MAX_ID_BYTES and len(text.encode()) > MAX_ID_BYTES

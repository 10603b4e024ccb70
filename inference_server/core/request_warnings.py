"""Warnings in an answer: what a request asks for that is no error, and most likely not what its author meant.

Operators see the kinds in `tandem_request_warnings_total`: they are part of the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WarningKind(StrEnum):
    """What a warning is about."""

    UNKNOWN_CATEGORY = "unknown_category"
    """No item of the catalogue has the category."""
    UNKNOWN_ATTRIBUTE = "unknown_attribute"
    """No item of the catalogue has the attribute."""
    UNKNOWN_VALUE = "unknown_value"
    """No item's attribute has the value."""
    NOT_NUMERIC = "not_numeric"
    """A bound on an attribute without a value that is a number."""
    NO_CONDITION = "no_condition"
    """A predicate that names an attribute and asks nothing of it."""
    MATCHES_NOTHING = "matches_nothing"
    """No item passes the whole filter."""
    UNKNOWN_ITEMS = "unknown_items"
    """None of the recent items is in the catalogue, and so the answer is not personal."""


@dataclass(frozen=True, slots=True)
class RequestWarning:
    """One warning."""

    kind: WarningKind
    message: str
    """For the caller: "field: what is wrong"."""

"""Why an answer is less than it could have been, and where an answer came from.

Callers see these words in `degraded_reasons` and operators in `tandem_degraded_total`: they are part of the API.
"""

from enum import StrEnum


class Degraded(StrEnum):
    """A reason for a degraded answer."""

    STORE_UNAVAILABLE = "store_unavailable"
    """The online store refused the connection or failed."""
    STORE_TIMEOUT = "store_timeout"
    """The online store did not answer within its share of the deadline."""
    STORE_VALUE_UNREADABLE = "store_value_unreadable"
    """The store holds bytes for this user that this version cannot read."""
    DEADLINE = "deadline"
    """Too little time was left to compute the user's vector."""
    USER_VECTOR_NOT_FINITE = "user_vector_not_finite"
    """The user tower put out NaN or infinity for this user."""


class Source(StrEnum):
    """How an answer was made; named as in the API's `RecommendationSource`."""

    RETRIEVED = "RETRIEVED"
    """Ordered by the two-tower score."""
    POPULAR = "POPULAR"
    """The bundle's list of popular items."""

"""Why an answer is degraded, and how it was made.

Callers see these words in `degraded_reasons` and operators in `tandem_degraded_total`: they are part of the API.
"""

from enum import StrEnum


class Degraded(StrEnum):
    """A reason for a degraded answer."""

    STORE_UNAVAILABLE = "store_unavailable"
    """The online store refused the connection or failed, or its breaker is open."""
    STORE_TIMEOUT = "store_timeout"
    """The online store did not answer within its share of the deadline."""
    STORE_VALUE_UNREADABLE = "store_value_unreadable"
    """The store holds bytes for this user that this version cannot read."""
    STORE_EMPTY = "store_empty"
    """The store holds no state of this user, and no published states at all: it was emptied, or never filled."""
    STORE_EVICTS = "store_evicts"
    """The store holds no state of this user, and has evicted keys for lack of memory: the state may be among them."""
    RANKER_SKIPPED = "ranker_skipped"
    """Too little time was left to rank: the order is that of the two-tower score."""
    RANKER_FAILED = "ranker_failed"
    """The ranker failed, returned NaN, or its breaker is open: the order is that of the two-tower score."""
    SOURCES_SKIPPED = "sources_skipped"
    """Too little time was left for candidate sources beside the two towers."""
    SOURCE_FAILED = "source_failed"
    """A candidate source beside the two towers failed, or proposed what is no row of the catalogue."""
    TRENDING_UNAVAILABLE = "trending_unavailable"
    """The policy uses trending items, and their list could not be read."""
    DEADLINE = "deadline"
    """Too little time was left to retrieve: a list from memory answers."""
    ARM_UNAVAILABLE = "arm_unavailable"
    """The model or scenario of the request's arm cannot answer: the answer is as outside of the experiment."""
    USER_VECTOR_NOT_FINITE = "user_vector_not_finite"
    """The user tower returned NaN or infinity for this user."""
    SCORES_NOT_FINITE = "scores_not_finite"
    """The scores of some candidates were NaN or infinite: these are left out."""


class Source(StrEnum):
    """How an answer was made; named as in the API's `RecommendationSource`."""

    RANKED = "RANKED"
    """Retrieved and then ordered by a ranker."""
    RETRIEVED = "RETRIEVED"
    """Ordered by the two-tower score."""
    CACHED = "CACHED"
    """The list that this user was last answered with, from this worker's memory."""
    POPULAR = "POPULAR"
    """The bundle's list of popular items."""

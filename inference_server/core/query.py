"""Requests as the API defines them, independent of the protocol. `request.admission` checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributePredicate:
    """A condition on one attribute of an item; every field that is set must hold."""

    name: str
    any_of: tuple[str, ...] = ()
    """Empty: any value."""
    none_of: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemFilter:
    """Which items may be recommended."""

    include_categories: tuple[str, ...] = ()
    """Empty: any."""
    exclude_categories: tuple[str, ...] = ()
    exclude_item_ids: Sequence[str] = ()
    exclude_digest: bytes = b""
    """Digest of a long `exclude_item_ids`, so that a repeated list is looked up only once; empty for a short list."""
    attributes: tuple[AttributePredicate, ...] = ()


NO_FILTER = ItemFilter()
NO_CONTEXT: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A request for recommendations."""

    user_id: str
    """External id; empty: anonymous."""
    num_items: int
    """0: the default."""
    recent_item_ids: tuple[str, ...] = ()
    """Newest last."""
    context: Mapping[str, str] = field(default_factory=lambda: NO_CONTEXT)
    filter: ItemFilter = NO_FILTER
    exclude_seen: bool = True
    diversity: float | None = None
    """0 to 1; None: the policy's value."""
    explain: bool = False
    page_token: str = ""
    """Empty: the first page."""
    scenario: str = ""
    """Empty: the default policy."""
    model: str = ""
    """Alias or version number of the model that is to answer; an experiment sets it, no caller. Empty: the server's
    own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarQuery:
    """A request for items that are near given items."""

    item_ids: tuple[str, ...]
    num_items: int
    """0: the default."""
    filter: ItemFilter = NO_FILTER
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Clause:
    """A set of conditions on items: a request's filter, or a policy's rules."""

    include_categories: tuple[str, ...] = ()
    """The item must have at least one of these; empty: any."""
    exclude_categories: tuple[str, ...] = ()
    attributes: tuple[AttributePredicate, ...] = ()

    @property
    def demands_nothing(self) -> bool:
        """Whether every item meets it."""
        return not (self.include_categories or self.exclude_categories or self.attributes)

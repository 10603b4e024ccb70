"""What callers ask for, as the API defines it, whatever protocol it came over. Checked by `stages.admit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributePredicate:
    """A condition on one attribute; all that is set must hold."""

    name: str
    any_of: tuple[str, ...] = ()
    """Empty: any value."""
    none_of: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemFilter:
    """What may be recommended."""

    include_categories: tuple[str, ...] = ()
    """Empty: any."""
    exclude_categories: tuple[str, ...] = ()
    exclude_item_ids: Sequence[str] = ()
    exclude_digest: bytes = b""
    """Digest of a long `exclude_item_ids`, so that a list that comes again is looked up only once; empty for short
    ones."""
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
    """0 to 1; None: what the policy says."""
    explain: bool = False
    page_token: str = ""
    """Empty: the first page."""
    scenario: str = ""
    """Empty: the default policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarQuery:
    """A request for items near others."""

    item_ids: tuple[str, ...]
    num_items: int
    """0: the default."""
    filter: ItemFilter = NO_FILTER
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Clause:
    """One set of conditions on items; a request's filter is one, and a policy's rules are another."""

    include_categories: tuple[str, ...] = ()
    """At least one of these; empty: any."""
    exclude_categories: tuple[str, ...] = ()
    attributes: tuple[AttributePredicate, ...] = ()

    @property
    def demands_nothing(self) -> bool:
        """Whether every item meets it."""
        return not (self.include_categories or self.exclude_categories or self.attributes)

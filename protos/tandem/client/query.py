"""Queries, and the wire messages for them.

Limits (number of items, length of an id) are checked by the server only, so that they are defined once. This module
checks what would otherwise be sent as something other than the caller meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, TypedDict

from tandem.client.arguments import flag, instance, integer, invalid, listed, number, pairs, shown, text, texts
from tandem.v1 import recommendation_pb2 as pb


@dataclass(frozen=True, kw_only=True)
class AttributePredicate:
    """A condition on an attribute. All set fields must hold. An item without the attribute meets only `none_of`."""

    name: str
    """Name of the attribute, as the catalogue writes it."""
    any_of: Sequence[str] = ()
    """The value is in this list. Empty: any value."""
    none_of: Sequence[str] = ()
    """The value is not in this list."""
    min: float | None = None
    """The value is a number, at least this."""
    max: float | None = None
    """The value is a number, at most this."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Restricts what may be recommended. All set fields must hold."""

    include_categories: Sequence[str] = ()
    """Only items with at least one of these categories. Empty: any category."""
    exclude_categories: Sequence[str] = ()
    """No items with any of these categories."""
    exclude_item_ids: Sequence[str] = ()
    """Never these items. Unknown ids are ignored."""
    attributes: Sequence[AttributePredicate] = ()
    """Only items that meet all of these conditions."""


NO_FILTER = Filter()
"""No restriction."""


class QueryOptions(TypedDict, total=False):
    """The fields of `Query` that `pages` takes as keywords: all but the user and the page. A test compares the two."""

    num_items: int
    recent_item_ids: Sequence[str]
    filter: Filter
    exclude_seen: bool
    diversity: float | None
    explain: bool
    scenario: str
    context: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Query:
    """One request for recommendations."""

    user_id: str = ""
    """External id. Empty: anonymous."""
    num_items: int = 10
    """Number of items to return, 1 to 500."""
    recent_item_ids: Sequence[str] = ()
    """Items of the user's latest actions that the store may not have yet, newest last. Unknown ids are ignored."""
    filter: Filter = NO_FILTER
    """Restricts what may be recommended."""
    exclude_seen: bool = True
    """Excludes items the user has interacted with, including `recent_item_ids`."""
    diversity: float | None = None
    """How different the items should be from each other, 0 to 1. None: as the scenario's policy says."""
    explain: bool = False
    """Fills `RecommendedItem.reason`."""
    scenario: str = ""
    """Name of a configured policy. Empty: the default policy."""
    page_token: str = ""
    """`next_page_token` of the previous page. Empty: the first page."""
    context: Mapping[str, str] = field(default_factory=dict)
    """Context of the request (device, country, ...), for the impression log."""

    def following(self, page_token: str) -> Self:
        """The same query for the page of this token."""
        return replace(self, page_token=page_token)


def recommend_request(query: Query) -> pb.RecommendRequest:
    """The wire message of a query. Raises InvalidArgument."""
    instance("query", query, Query)
    return pb.RecommendRequest(
        user_id=text("user_id", query.user_id),
        num_items=integer("num_items", query.num_items),
        recent_item_ids=texts("recent_item_ids", query.recent_item_ids),
        context={name: text(f"context[{name!r}]", value) for name, value in pairs("context", query.context)},
        filter=_filter(query.filter),
        exclude_seen=flag("exclude_seen", query.exclude_seen),
        diversity=None if query.diversity is None else number("diversity", query.diversity),
        explain=flag("explain", query.explain),
        page_token=text("page_token", query.page_token),
        scenario=text("scenario", query.scenario),
    )


def recommend_many_request(queries: Iterable[Query], *, in_bulk: bool) -> pb.RecommendManyRequest:
    """The wire message of several queries, whose outcomes come in their order. Raises InvalidArgument."""
    return pb.RecommendManyRequest(
        queries=[
            pb.RecommendBatchRequest(request=recommend_request(query))
            for query in listed("queries", queries, "Query objects")
        ],
        priority=pb.RECOMMEND_PRIORITY_BULK if flag("in_bulk", in_bulk) else pb.RECOMMEND_PRIORITY_INTERACTIVE,
    )


def similar_items_request(
    item_ids: Sequence[str], *, num_items: int, filter: Filter, explain: bool
) -> pb.SimilarItemsRequest:
    """The wire message of a query for similar items. Raises InvalidArgument."""
    return pb.SimilarItemsRequest(
        item_ids=texts("item_ids", item_ids),
        num_items=integer("num_items", num_items),
        filter=_filter(filter),
        explain=flag("explain", explain),
    )


def batch_request(entry: tuple[str, Query]) -> pb.RecommendBatchRequest:
    """The wire message of a batch entry, a correlation id and a query. Raises InvalidArgument."""
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        raise invalid("requests", f"pairs of a correlation id and a Query, not {shown(entry)}")
    correlation_id, query = entry
    return pb.RecommendBatchRequest(
        correlation_id=text("correlation_id", correlation_id), request=recommend_request(query)
    )


def _filter(filter: Filter) -> pb.RecommendFilter | None:
    instance("filter", filter, Filter)
    wire = pb.RecommendFilter(
        include_categories=texts("filter.include_categories", filter.include_categories),
        exclude_categories=texts("filter.exclude_categories", filter.exclude_categories),
        exclude_item_ids=texts("filter.exclude_item_ids", filter.exclude_item_ids),
        attributes=[
            _predicate(f"filter.attributes[{index}]", predicate)
            for index, predicate in enumerate(listed("filter.attributes", filter.attributes, "AttributePredicate"))
        ],
    )
    # Compared on the wire: fields of foreign types, such as arrays, do not compare to a single truth value.
    return wire if wire.ListFields() else None


def _predicate(field: str, predicate: AttributePredicate) -> pb.AttributePredicate:
    instance(field, predicate, AttributePredicate)
    return pb.AttributePredicate(
        name=text(f"{field}.name", predicate.name),
        any_of=texts(f"{field}.any_of", predicate.any_of),
        none_of=texts(f"{field}.none_of", predicate.none_of),
        min=None if predicate.min is None else number(f"{field}.min", predicate.min),
        max=None if predicate.max is None else number(f"{field}.max", predicate.max),
    )

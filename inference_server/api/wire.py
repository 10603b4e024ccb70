"""Converts wire messages to queries, and answers to wire messages, for gRPC and for JSON over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from inference_server.core.answers import Answer
from inference_server.core.degradation import Source
from inference_server.core.query import NO_CONTEXT, NO_FILTER, AttributePredicate, ItemFilter, Query, SimilarQuery
from tandem.v1 import recommendation_pb2 as pb

LONG_LIST: Final = 256
"""An exclude list longer than this is looked up once, and cached under its digest."""
WIRE_SOURCES: Final = {
    source: pb.RecommendationSource.Value(f"RECOMMENDATION_SOURCE_{source.value}") for source in Source
}


def to_query(request: pb.RecommendRequest) -> Query:
    """The query of a Recommend request."""
    context = request.context
    return Query(
        user_id=request.user_id,
        num_items=request.num_items,
        recent_item_ids=tuple(request.recent_item_ids),
        context=dict(context) if context else NO_CONTEXT,
        filter=_to_filter(request.filter) if request.HasField("filter") else NO_FILTER,
        exclude_seen=request.exclude_seen if request.HasField("exclude_seen") else True,
        diversity=request.diversity if request.HasField("diversity") else None,
        explain=request.explain,
        page_token=request.page_token,
        scenario=request.scenario,
    )


def to_similar_query(request: pb.SimilarItemsRequest) -> SimilarQuery:
    """The query of a SimilarItems request."""
    return SimilarQuery(
        item_ids=tuple(request.item_ids),
        num_items=request.num_items,
        filter=_to_filter(request.filter) if request.HasField("filter") else NO_FILTER,
        explain=request.explain,
    )


def to_response(answer: Answer) -> pb.RecommendResponse:
    """An answer as Recommend returns it."""
    response = pb.RecommendResponse(
        request_id=answer.request_id,
        model_version=answer.model_version,
        variant=answer.variant,
        source=WIRE_SOURCES[answer.source],
        degraded_reasons=answer.degraded_reasons,
        next_page_token=answer.next_page_token,
        warnings=[warning.message for warning in answer.warnings],
    )
    for assignment in answer.assignments:
        response.assignments.add(experiment=assignment.experiment, arm=assignment.arm, exposed=assignment.exposed)
    _add_items(response, answer)
    return response


def to_similar_response(answer: Answer) -> pb.SimilarItemsResponse:
    """An answer as SimilarItems returns it."""
    response = pb.SimilarItemsResponse(
        request_id=answer.request_id,
        model_version=answer.model_version,
        variant=answer.variant,
        warnings=[warning.message for warning in answer.warnings],
    )
    _add_items(response, answer)
    return response


def _add_items(response: pb.RecommendResponse | pb.SimilarItemsResponse, answer: Answer) -> None:
    add_item = response.items.add
    for item_id, score in zip(answer.item_ids, answer.scores, strict=True):
        add_item(item_id=item_id, score=score)
    if answer.reasons is not None:
        for item, reason in zip(response.items, answer.reasons, strict=True):
            item.reason.source = reason.source
            item.reason.because_item_ids.extend(reason.because_item_ids)
            item.reason.score_parts.update(reason.score_parts)
            item.reason.title = reason.title
            item.reason.propensity = reason.propensity


def _to_filter(wire: pb.RecommendFilter) -> ItemFilter:
    excluded: Sequence[str] = wire.exclude_item_ids
    digest = b""
    if len(excluded) > LONG_LIST:
        # A list of thousands of ids stays as it was parsed: converting it to strings costs as much as the rest of the
        # request.
        digest = hashlib.blake2b(wire.SerializeToString(), digest_size=16).digest()
    return ItemFilter(
        include_categories=tuple(wire.include_categories),
        exclude_categories=tuple(wire.exclude_categories),
        exclude_item_ids=excluded if digest else tuple(excluded),
        exclude_digest=digest,
        attributes=tuple(
            AttributePredicate(
                name=predicate.name,
                any_of=tuple(predicate.any_of),
                none_of=tuple(predicate.none_of),
                min=predicate.min if predicate.HasField("min") else None,
                max=predicate.max if predicate.HasField("max") else None,
            )
            for predicate in wire.attributes
        ),
    )

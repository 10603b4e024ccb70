"""Answers as JSON: equal to `json_format.MessageToDict` of the wire message, without creating the message.

Creating the message costs several times as much, most of it in Python code that walks descriptors; a test compares the
two.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from starlette.responses import Response

from inference_server.api.wire import WIRE_SOURCES
from inference_server.core.answers import Answer, Reason
from inference_server.core.degradation import Source
from tandem.v1 import recommendation_pb2 as pb

JSON_MEDIA_TYPE: Final = "application/json"

_SOURCE_NAMES: Final[Mapping[Source, str]] = {
    source: pb.RecommendationSource.Name(number) for source, number in WIRE_SOURCES.items()
}
# Created once: json.dumps creates an encoder for every call with options.
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def json_response(payload: object, *, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response with this body."""
    return Response(_encode(payload).encode(), status_code=status_code, headers=headers, media_type=JSON_MEDIA_TYPE)


async def json_list_response(name: str, entries: Iterable[object]) -> Response:
    """A response whose body is an object with one list. Others have a turn after each entry: to encode a long list in
    one go would stop the event loop for a second."""
    parts = []
    for entry in entries:
        parts.append(_encode(entry))
        await asyncio.sleep(0)
    body = f"{{{_encode(name)}:[{','.join(parts)}]}}"
    return Response(body.encode(), media_type=JSON_MEDIA_TYPE)


def recommend_payload(answer: Answer) -> dict[str, Any]:
    """An answer as POST /v1/recommend returns it."""
    return {
        "request_id": answer.request_id,
        "items": _items(answer),
        "model_version": answer.model_version,
        "variant": answer.variant,
        "source": _SOURCE_NAMES[answer.source],
        "degraded_reasons": list(answer.degraded_reasons),
        "next_page_token": answer.next_page_token,
        "warnings": [warning.message for warning in answer.warnings],
        "assignments": [
            {"experiment": assignment.experiment, "arm": assignment.arm, "exposed": assignment.exposed}
            for assignment in answer.assignments
        ],
    }


def similar_items_payload(answer: Answer) -> dict[str, Any]:
    """An answer as POST /v1/similar-items returns it."""
    return {
        "request_id": answer.request_id,
        "items": _items(answer),
        "model_version": answer.model_version,
        "variant": answer.variant,
        "warnings": [warning.message for warning in answer.warnings],
    }


def _items(answer: Answer) -> list[dict[str, Any]]:
    scores = _shortest(answer.scores)
    if answer.reasons is None:
        return [{"item_id": item_id, "score": score} for item_id, score in zip(answer.item_ids, scores, strict=True)]
    return [
        {"item_id": item_id, "score": score, "reason": _reason(reason)}
        for item_id, score, reason in zip(answer.item_ids, scores, answer.reasons, strict=True)
    ]


def _reason(reason: Reason) -> dict[str, Any]:
    return {
        "source": reason.source,
        "because_item_ids": list(reason.because_item_ids),
        "score_parts": dict(zip(reason.score_parts, _shortest(list(reason.score_parts.values())), strict=True)),
        "title": reason.title,
        "propensity": _shortest([reason.propensity])[0],
    }


def _shortest(values: list[float]) -> list[float]:
    """The values rounded to float32, as on the wire, with the fewest digits that identify them."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32)]

"""The OpenAPI document of the endpoints. Payloads are references to the schemas of `schemas`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI

from inference_server.api.http.body import MAX_TIMEOUT_MS, TIMEOUT_HEADER
from inference_server.api.http.schemas import ERROR, JsonSchema, schema_documents

ABOUT: Final[dict[str, Any]] = {
    "title": "Tandem",
    "version": "v1",
    "description": "Recommendations over JSON: the same answers as the gRPC service tandem.v1.RecommendationService.",
    # Relative, so that the document is correct behind every host name and port.
    "servers": [{"url": "/"}],
}

_SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_DEADLINE: Final = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "description": "The caller's deadline: milliseconds from now. The server has a limit of its own all the same.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
}
_ERRORS: Final = {
    400: "The request is malformed; `field` says where.",
    401: "Credentials are missing or wrong.",
    403: "The key lacks the right, or may not name the user.",
    404: "Nothing has this name.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the server takes (TANDEM_MAX_REQUEST_BYTES).",
    415: "The content type is not application/json.",
    429: "More requests than the server takes at once or the caller may send, or no room in the stream.",
    500: "A bug of the server's; its log knows the `request_id`.",
    503: "No model is served yet, the event stream is not available, or the server is stopping.",
    504: "The deadline is too short for any answer.",
}
_HEADERS: Final = {
    401: {"www-authenticate": {"schema": {"type": "string"}, "required": True}},
    429: {
        "retry-after": {
            "description": "Seconds.",
            "schema": {"type": "integer", "minimum": 1},
            "required": True,
        }
    },
}
_MANY: Final = {
    "queries": [
        {"correlation_id": "for you", "request": {"user_id": "196", "num_items": 12}},
        {
            "correlation_id": "comedies",
            "request": {"user_id": "196", "num_items": 6, "filter": {"include_categories": ["Comedy"]}},
        },
    ]
}
"""Two shelves of one page."""
_POST_ERRORS: Final = (400, 408, 413, 415, 429, 500, 503, 504)


class Description:
    """Keyword arguments of `add_api_route` for every endpoint."""

    def __init__(self, *, authenticated: bool) -> None:
        """`authenticated`: a key is needed."""
        self._authenticated = authenticated
        self.recommend = self._post(
            "recommend",
            "Recommends items to one user.",
            "RecommendRequest",
            "RecommendResponse",
            errors=_POST_ERRORS,
        )
        self.recommend_many = self._post(
            "recommend_many",
            "Answers up to 256 queries, each with an outcome of its own: `response`, or `error` where the query is "
            "refused, with the number of a gRPC status.",
            "RecommendManyRequest",
            "RecommendManyResponse",
            errors=_POST_ERRORS,
            example=_MANY,
        )
        self.similar_items = self._post(
            "similar_items",
            "Items near one or several items.",
            "SimilarItemsRequest",
            "SimilarItemsResponse",
            errors=(*_POST_ERRORS, 404),
        )
        self.record_events = self._post(
            "record_events",
            "Records what users did with items; answered once that is durable.",
            "RecordEventsRequest",
            "RecordEventsResponse",
            errors=_POST_ERRORS,
        )
        self.upsert_items = self._post(
            "upsert_items",
            "Adds items to the catalogue, or replaces what it says of them.",
            "UpsertItemsRequest",
            "UpsertItemsResponse",
            errors=_POST_ERRORS,
        )
        self.delete_items = self._post(
            "delete_items",
            "Removes items from the catalogue.",
            "DeleteItemsRequest",
            "DeleteItemsResponse",
            errors=_POST_ERRORS,
        )
        self.status = self._get(
            "status",
            "What is served, since when, and what has been degraded.",
            _reference("GetServingStatusResponse"),
        )
        self.schema = self._get("schema", "JSON Schema of one payload.", {"type": "object"}, errors=(404, 500))
        self.schema["openapi_extra"]["parameters"] = [
            {
                "name": "name",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "enum": list(schema_documents())},
            }
        ]
        self.openapi = self._get("openapi", "This document.", {"type": "object"})
        self.healthz = _route("healthz", "Whether the process is alive.", _STATUS, errors=())
        self.readyz = _route("readyz", "Whether a model is served.", _STATUS, errors=(503,))

    def _post(
        self,
        name: str,
        summary: str,
        request: str,
        response: str,
        *,
        errors: tuple[int, ...],
        example: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        route = self._get(name, summary, _reference(response), errors=errors)
        route["openapi_extra"]["parameters"] = [_DEADLINE]
        content = _json(_reference(request))
        if example is not None:
            content["application/json"]["example"] = example
        route["openapi_extra"]["requestBody"] = {"required": True, "content": content}
        return route

    def _get(self, name: str, summary: str, schema: JsonSchema, *, errors: tuple[int, ...] = (500,)) -> dict[str, Any]:
        route = _route(name, summary, schema, errors=(*errors, 401, 403) if self._authenticated else errors)
        if self._authenticated:
            route["openapi_extra"]["security"] = [{name: []} for name in _SECURITY_SCHEMES]
        return route


def document(app: FastAPI, components: dict[str, JsonSchema], *, authenticated: bool) -> dict[str, Any]:
    """The complete document of an application whose routes are described here."""
    found = app.openapi()
    found["components"] = {"schemas": components}
    if authenticated:
        found["components"]["securitySchemes"] = _SECURITY_SCHEMES
    return found


_STATUS: Final[JsonSchema] = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string", "enum": ["ALIVE", "SERVING"]}},
}


def _route(name: str, summary: str, schema: JsonSchema, *, errors: tuple[int, ...]) -> dict[str, Any]:
    responses: dict[int, dict[str, Any]] = {200: {"description": "The answer.", "content": _json(schema)}}
    for code in sorted(errors):
        responses[code] = {"description": _ERRORS[code], "content": _json(_reference(ERROR["title"]))}
        if code in _HEADERS:
            responses[code]["headers"] = _HEADERS[code]
    return {
        "operation_id": name,
        "summary": summary,
        "responses": responses,
        "response_model": None,
        "openapi_extra": {},
    }


def _json(schema: JsonSchema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> JsonSchema:
    return {"$ref": f"#/components/schemas/{name}"}

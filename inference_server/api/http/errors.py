"""The HTTP status of a request that gets no answer: one table from exception to status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from inference_server.api.http.responses import json_response
from inference_server.api.internal_error import InternalError
from inference_server.core.errors import (
    DeadlineTooShort,
    InferenceServerError,
    InvalidRequest,
    NoModel,
    OverCapacity,
    PermissionDenied,
    RequestError,
    StreamUnavailable,
    Unauthenticated,
    UnknownItem,
)

STATUS_OF: Final[Mapping[type[RequestError], tuple[int, str]]] = {
    InvalidRequest: (400, "INVALID_ARGUMENT"),
    Unauthenticated: (401, "UNAUTHENTICATED"),
    PermissionDenied: (403, "PERMISSION_DENIED"),
    UnknownItem: (404, "NOT_FOUND"),
    OverCapacity: (429, "RESOURCE_EXHAUSTED"),
    StreamUnavailable: (503, "UNAVAILABLE"),
    NoModel: (503, "UNAVAILABLE"),
    DeadlineTooShort: (504, "DEADLINE_EXCEEDED"),
}
"""Every class under RequestError, with the name of the corresponding gRPC status."""

_STATUS_NAMES: Final = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    414: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    431: "INVALID_ARGUMENT",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class HttpRefusal(InferenceServerError):
    """A request that HTTP itself, not the API, refuses. Never leaves this folder."""

    def __init__(self, http_status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        """`headers` are those of the answer, beside the usual ones."""
        super().__init__(message)
        self.http_status = http_status
        self.headers = headers


class ClientGone(InferenceServerError):
    """The caller hung up, so that no answer can be sent. Never leaves this folder."""


def status_name(error: RequestError) -> str:
    """The name of the gRPC status that says the same."""
    return STATUS_OF[type(error)][1]


def error_response(error: RequestError) -> Response:
    """The answer to a request that the API refuses."""
    code, status = STATUS_OF[type(error)]
    details: dict[str, Any] = {}
    headers: dict[str, str] = {}
    if isinstance(error, InvalidRequest):
        details["field"] = error.field
    elif isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    elif isinstance(error, OverCapacity):
        details["retry_after_ms"] = math.ceil(error.retry_after_seconds * 1e3)
        # The header has whole seconds only, and 0 would invite the caller to try again at once.
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds)))
    return _response(code, status, str(error), details, headers)


def refusal_response(http_status: int, message: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that HTTP refuses."""
    return _response(http_status, _STATUS_NAMES[http_status], message, {}, headers or {})


def internal_error_response(error: InternalError) -> Response:
    """The answer to a request that failed because of a bug of ours."""
    return _response(500, _STATUS_NAMES[500], error.message, {"request_id": error.request_id}, {})


def _response(code: int, status: str, message: str, details: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    error = {"code": code, "status": status, "message": message, **details}
    return json_response({"error": error}, status_code=code, headers=headers)

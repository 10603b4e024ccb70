"""Reads a request's headers, and its body as JSON, within the limits of the API."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any, Final

from starlette.requests import Request

from inference_server.api.http.errors import ClientGone, HttpRefusal
from inference_server.api.http.responses import JSON_MEDIA_TYPE
from inference_server.api.http.validation import BODY
from inference_server.core.errors import InvalidRequest

TIMEOUT_HEADER: Final = "x-timeout-ms"
"""The caller's deadline, as `grpc-timeout` is for gRPC: milliseconds from now, a positive integer."""
MAX_TIMEOUT_MS: Final = 86_400_000

_BODY_SECONDS: Final = 10.0
"""Longest wait for the rest of a body: a caller that stops sending must not hold memory forever."""
_POSITIVE_INTEGER: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


def header(request: Request, name: str) -> str | None:
    """The value of a header; None if the request lacks it. Starlette's own look-up takes a tenth of a whole request."""
    wanted = name.encode()
    for found, value in request.scope["headers"]:
        if found == wanted:
            return str(value, "latin-1")
    return None


def timeout_seconds(request: Request) -> float | None:
    """Seconds of the caller's deadline, counted from the start of the request; None without a deadline.

    Raises InvalidRequest.
    """
    text = header(request, TIMEOUT_HEADER)
    if text is None:
        return None
    if _POSITIVE_INTEGER.fullmatch(text) is None or int(text) > MAX_TIMEOUT_MS:
        raise InvalidRequest(TIMEOUT_HEADER, f"must be an integer in 1..{MAX_TIMEOUT_MS}")
    return int(text) * 1e-3


async def read_json(request: Request, max_bytes: int) -> Any:
    """The parsed body.

    Raises HttpRefusal if the content type is not JSON or the body is too large, InvalidRequest if it is not JSON, and
    ClientGone.
    """
    media_type = (header(request, "content-type") or "").partition(";")[0].strip().lower()
    if media_type != JSON_MEDIA_TYPE:
        raise HttpRefusal(415, f"the content type must be {JSON_MEDIA_TYPE}")
    body = await _read(request, max_bytes)
    try:
        return _decode(body.decode())
    except RecursionError:
        raise InvalidRequest(BODY, "is nested too deeply") from None
    except ValueError as error:  # includes UnicodeDecodeError, and integers of thousands of digits
        raise InvalidRequest(BODY, f"is not JSON: {error}") from None


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = header(request, "content-length")
    if declared is not None and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body, more = await _next_part(request)
    if not more:
        _refuse_too_large(body, max_bytes)
        return body
    parts = bytearray(body)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while more:
                _refuse_too_large(parts, max_bytes)
                body, more = await _next_part(request)
                parts += body
    except TimeoutError:
        raise HttpRefusal(408, f"the body did not arrive within {_BODY_SECONDS:g} s") from None
    _refuse_too_large(parts, max_bytes)
    return bytes(parts)


async def _next_part(request: Request) -> tuple[bytes, bool]:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


def _refuse_too_large(body: bytes | bytearray, max_bytes: int) -> None:
    if len(body) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> HttpRefusal:
    return HttpRefusal(413, f"the body must have at most {max_bytes} bytes")


def _number(text: str) -> float | int:
    """Converts 10.0 to an integer: JSON Schema and the proto3 JSON mapping take it as one, Python's protobuf does
    not."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text:.30} is too large")
    return int(value) if value.is_integer() else value


def _no_such_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


# Created once: json.loads creates a decoder for every call with options.
_decode: Final = json.JSONDecoder(parse_constant=_no_such_number, parse_float=_number).decode

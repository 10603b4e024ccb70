"""Reads a request's headers, and its body as JSON, within the limits of the API."""

from __future__ import annotations

import asyncio
import codecs
import json
import math
import re
from typing import Any, Final

from starlette.requests import Request

from inference_server.api.http.compression import coding_of, unpacked
from inference_server.api.http.errors import ClientGone, HttpRefusal
from inference_server.api.http.responses import JSON_MEDIA_TYPE
from inference_server.api.http.validation import BODY
from inference_server.core.errors import InvalidRequest

TIMEOUT_HEADER: Final = "x-timeout-ms"
"""The caller's deadline, as `grpc-timeout` is for gRPC: milliseconds from now, a positive integer."""
MAX_TIMEOUT_MS: Final = 86_400_000

_BODY_SECONDS: Final = 10.0
"""Longest wait for the rest of a body: a caller that stops sending must not hold memory forever."""
_JSON_MEDIA_TYPES: Final = frozenset({JSON_MEDIA_TYPE, "text/json"})
_JSON_SUFFIX: Final = re.compile(r"application/[a-z0-9!#$&^_.-]+\+json", re.ASCII)
"""Media types built on JSON, as application/vnd.shop+json."""
_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
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
    """The parsed body, unpacked if it is compressed.

    Raises HttpRefusal if it is not described as JSON, if its compression is not understood or if it has more than
    `max_bytes`, compressed or not; InvalidRequest if it is not JSON; and ClientGone.
    """
    _check_media_type(header(request, "content-type"))
    coding = coding_of(header(request, "content-encoding"))
    body = await _read(request, max_bytes)
    if coding is not None:
        body = unpacked(body, coding, max_bytes)
    try:
        return _decode(body.removeprefix(codecs.BOM_UTF8).decode())
    except RecursionError:
        raise InvalidRequest(BODY, "is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(BODY, f"is not UTF-8 at byte {error.start}") from None
    except ValueError as error:  # includes integers of thousands of digits
        raise InvalidRequest(BODY, f"is not JSON: {error}") from None


def _check_media_type(given: str | None) -> None:
    """Raises HttpRefusal unless a `content-type` says JSON in UTF-8."""
    if given == JSON_MEDIA_TYPE:
        return
    media_type, _, parameters = (given or "").partition(";")
    name = media_type.strip().lower()
    if name not in _JSON_MEDIA_TYPES and _JSON_SUFFIX.fullmatch(name) is None:
        said = f"not {name:.60}" if name else "and none was given"
        raise HttpRefusal(415, f"the content type must be {JSON_MEDIA_TYPE}, {said}")
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if key.strip().lower() == "charset" and charset not in _CHARSETS:
            raise HttpRefusal(415, f"the charset of the body must be utf-8, not {charset:.60}")


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = header(request, "content-length")
    if declared is not None and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body, more = await _next_part(request)
            if not more:
                _refuse_too_large(body, max_bytes)
                return body
            parts = bytearray(body)
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Python would keep the last of two values of a name, and drop the first in silence."""
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice[:64]!r} occurs twice in one object")
    return values


# Created once: json.loads creates a decoder for every call with options.
_decode: Final = json.JSONDecoder(parse_constant=_no_such_number, parse_float=_number, object_pairs_hook=_object).decode

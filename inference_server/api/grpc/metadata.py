"""Reads a call's metadata: credentials, and the trace that the call belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Metadata = Iterable[tuple[str, str | bytes]]
"""Names are in lower case, as in HTTP/2."""

_BEARER: Final = "bearer "


def presented_key(metadata: Metadata) -> str | None:
    """The API key of `authorization: Bearer KEY` or `x-api-key: KEY`; None if the call has neither."""
    for name, value in metadata:
        if name == "x-api-key":
            return str(value)
        if name == "authorization" and isinstance(value, str) and value[: len(_BEARER)].lower() == _BEARER:
            return value[len(_BEARER) :]
    return None


def traceparent(metadata: Metadata) -> str | None:
    """The W3C traceparent; None if the call has none."""
    for name, value in metadata:
        if name == "traceparent":
            return str(value)
    return None

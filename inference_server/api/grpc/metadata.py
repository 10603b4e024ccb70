"""What is read from a call's metadata: credentials, and the trace that the call belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Metadata = Iterable[tuple[str, str | bytes]]
"""Names in lower case, as HTTP/2 has them."""

_BEARER: Final = "bearer "


def presented_key(metadata: Metadata) -> str | None:
    """The API key of `authorization: Bearer KEY` or `x-api-key: KEY`; None where there is neither."""
    for name, value in metadata:
        if name == "x-api-key":
            return str(value)
        if name == "authorization" and isinstance(value, str) and value[: len(_BEARER)].lower() == _BEARER:
            return value[len(_BEARER) :]
    return None


def traceparent(metadata: Metadata) -> str | None:
    """The W3C traceparent; None where there is none."""
    for name, value in metadata:
        if name == "traceparent":
            return str(value)
    return None

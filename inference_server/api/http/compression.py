"""Unpacks compressed bodies, never beyond the limit of a body: a kilobyte of gzip can hold a megabyte of zeros."""

from __future__ import annotations

import zlib
from typing import Final

from inference_server.api.http.errors import HttpRefusal
from inference_server.api.http.validation import BODY
from inference_server.core.errors import InvalidRequest

ACCEPTED: Final = ("gzip", "deflate")
"""Names of the content codings that are unpacked."""

_ALIASES: Final = {"x-gzip": "gzip"}
_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS
_MAX_MEMBERS: Final = 16
"""A gzip file may consist of several; each costs the time of some kilobytes, however short it is."""


def coding_of(header: str | None) -> str | None:
    """The coding that a `content-encoding` header names; None if the body is not compressed. Raises HttpRefusal."""
    names = [name for part in (header or "").split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if not names:
        return None
    coding = _ALIASES.get(names[0], names[0])
    if len(names) > 1 or coding not in ACCEPTED:
        accepted = " and ".join(ACCEPTED)
        raise HttpRefusal(
            415,
            f"content-encoding: {', '.join(names):.40} is not understood; {accepted} are, one at a time",
            headers={"accept-encoding": ", ".join(ACCEPTED)},
        )
    return coding


def unpacked(body: bytes, coding: str, max_bytes: int) -> bytes:
    """The body without its compression.

    Raises InvalidRequest if the body is damaged, and HttpRefusal if it unpacks to more than `max_bytes`.
    """
    try:
        if coding == "gzip":
            return _gunzipped(body, max_bytes)
        try:
            return _inflated(zlib.decompressobj(_ZLIB), body, max_bytes)
        except zlib.error:
            # Some clients send the bare stream, without the header that the standard asks for.
            return _inflated(zlib.decompressobj(_RAW), body, max_bytes)
    except (zlib.error, EOFError) as error:
        raise InvalidRequest(BODY, f"is not {coding}, as content-encoding says: {error}") from None


def _gunzipped(body: bytes, max_bytes: int) -> bytes:
    parts = bytearray()
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(_GZIP)
        parts += _inflated(member, body, max_bytes - len(parts), limit=max_bytes)
        body = member.unused_data
        if not body.strip(b"\0"):  # files are padded with zeros on some media
            return bytes(parts)
    raise EOFError(f"it has more than {_MAX_MEMBERS} members")


def _inflated(stream: zlib._Decompress, body: bytes, most: int, *, limit: int | None = None) -> bytes:
    # One byte more shows whether there is more.
    found = stream.decompress(body, most + 1)
    if len(found) > most:
        raise HttpRefusal(413, f"the unpacked body must have at most {most if limit is None else limit} bytes")
    if not stream.eof:
        raise EOFError("it ends too early")
    return found

"""Next-page tokens: the rows shown so far, carried by the caller.

The server keeps no state, so any worker of any replica answers the next page. An offset would be shorter, but the order
that it counts in changes with every click of the user; a list of the rows shown never repeats an item. The key is
derived from the bundle's manifest, which callers never see: a reader of it could make tokens, and would win nothing but
pages without items of their choice.

    format (1 byte) | identity of the bundle (8) | rows shown (4 each, little-endian) | MAC (16)

in URL-safe base64 without padding. The MAC also covers `request_fingerprint`.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Final

import numpy as np

from inference_server.core.errors import InvalidRequest
from inference_server.core.query import NO_FILTER, ItemFilter, Query
from tandem.contract.vocabulary import Rows

MAX_SHOWN: Final = 4000
"""Maximum number of rows in a token, which then has 21 kB."""

_FIELD: Final = "page_token"
_FORMAT: Final = b"\x01"
_IDENTITY_BYTES: Final = 8
_ROW: Final = np.dtype("<u4")
_MAC_BYTES: Final = 16
_HEAD_BYTES: Final = len(_FORMAT) + _IDENTITY_BYTES
_MAX_CHARACTERS: Final = -(-(_HEAD_BYTES + MAX_SHOWN * _ROW.itemsize + _MAC_BYTES) * 4 // 3)

_QUERY: Final = struct.Struct("<II??d")
_LENGTH: Final = struct.Struct("<I")
_LIMIT: Final = struct.Struct("<?d")


class PageTokens:
    """Issues and opens the tokens of one bundle."""

    def __init__(self, *, bundle_identity: bytes, key: bytes) -> None:
        """`bundle_identity` is 8 bytes, readable in every token; `key` up to 64 secret bytes."""
        if len(bundle_identity) != _IDENTITY_BYTES:
            raise ValueError(f"bundle_identity has {len(bundle_identity)} bytes, not {_IDENTITY_BYTES}")
        self._head = _FORMAT + bundle_identity
        self._begins = urlsafe_b64encode(self._head).decode()  # 9 bytes are 12 characters, whatever follows
        # Copied for every token: hashing key and head takes longer than hashing a page.
        self._mac = hashlib.blake2b(self._head, key=key, digest_size=_MAC_BYTES)

    def issue(self, shown_rows: Rows, request_fingerprint: bytes) -> str:
        """The token of the page after `shown_rows`, (n,) int64 in any order; empty for more than MAX_SHOWN rows.

        Rows are those of `Catalogue.stable_rows`, because another worker may open the token. `request_fingerprint` has
        16 bytes, see there.
        """
        if len(shown_rows) > MAX_SHOWN:
            return ""
        rows = shown_rows.astype(_ROW).tobytes()
        return urlsafe_b64encode(self._head + rows + self._mac_over(rows, request_fingerprint)).rstrip(b"=").decode()

    def issued(self, token: str) -> bool:
        """Whether a token says that it is of this bundle; `open` finds out whether that is true."""
        return token.startswith(self._begins)

    def open(self, token: str, request_fingerprint: bytes) -> Rows:
        """The rows shown so far, (n,) int64 in the order given to `issue`. Raises InvalidRequest."""
        if len(token) > _MAX_CHARACTERS:
            raise InvalidRequest(_FIELD, f"has {len(token)} characters, must have at most {_MAX_CHARACTERS}")
        content = _decoded(token)
        if len(content) < _HEAD_BYTES + _MAC_BYTES or not content.startswith(_FORMAT):
            raise _not_issued()
        if not content.startswith(self._head):
            raise InvalidRequest(_FIELD, "belongs to a bundle that is no longer served; start again at the first page")
        rows = content[_HEAD_BYTES:-_MAC_BYTES]
        if not hmac.compare_digest(content[-_MAC_BYTES:], self._mac_over(rows, request_fingerprint)):
            raise _not_issued()
        if len(rows) % _ROW.itemsize:
            raise _not_issued()
        return np.frombuffer(rows, dtype=_ROW).astype(np.int64)

    def _mac_over(self, rows: bytes, request_fingerprint: bytes) -> bytes:
        mac = self._mac.copy()
        # The fingerprint has a fixed length and comes first, so that no bytes of it can pass for a row's.
        mac.update(request_fingerprint)
        mac.update(rows)
        return mac.digest()


def tokens_of_bundle(manifest: bytes) -> PageTokens:
    """The tokens of a bundle: every process that has opened it issues and opens the same tokens.

    `manifest` is the manifest file as it is on disk; it holds the hash of every other file.
    """
    return PageTokens(
        bundle_identity=hmac.digest(b"tandem page token: identity", manifest, "sha256")[:_IDENTITY_BYTES],
        key=hmac.digest(b"tandem page token: key", manifest, "sha256"),
    )


def request_fingerprint(query: Query) -> bytes:
    """Digest, 16 bytes, of the fields that all pages of one list have in common.

    These are user, filter, exclude_seen, diversity and scenario; num_items, recent_item_ids, context and explain may
    change from page to page.
    """
    user_id = _utf8(query.user_id)
    scenario = _utf8(query.scenario)
    diversity = query.diversity
    query_bytes = _QUERY.pack(len(user_id), len(scenario), query.exclude_seen, diversity is not None, diversity or 0.0)
    item_filter = query.filter
    # An empty filter asks for the same as no filter. A long list is compared by its digest: comparing its ids would
    # decode all of them.
    is_empty = item_filter is NO_FILTER or (not item_filter.exclude_digest and item_filter == NO_FILTER)
    filtered = b"" if is_empty else _filter_bytes(item_filter)
    return hashlib.blake2b(query_bytes + user_id + scenario + filtered, digest_size=16).digest()


def _filter_bytes(item_filter: ItemFilter) -> bytes:
    """A filter's bytes: a length precedes every text and every list, so that no two filters have the same bytes."""
    parts = [
        *_texts(item_filter.include_categories),
        *_texts(item_filter.exclude_categories),
        *_texts(() if item_filter.exclude_digest else item_filter.exclude_item_ids),
        item_filter.exclude_digest,
        _LENGTH.pack(len(item_filter.attributes)),
    ]
    for predicate in item_filter.attributes:
        parts += _texts((predicate.name,))
        parts += _texts(predicate.any_of)
        parts += _texts(predicate.none_of)
        parts += (_LIMIT.pack(limit is not None, limit or 0.0) for limit in (predicate.min, predicate.max))
    return b"".join(parts)


def _texts(texts: Sequence[str]) -> list[bytes]:
    parts = [_LENGTH.pack(len(texts))]
    for text in map(_utf8, texts):
        parts += (_LENGTH.pack(len(text)), text)
    return parts


def _utf8(text: str) -> bytes:
    # JSON can spell half a surrogate pair, which UTF-8 cannot.
    return text.encode("utf-8", "surrogatepass")


def _decoded(token: str) -> bytes:
    """The token's bytes. Raises InvalidRequest."""
    try:
        characters = token.encode("ascii")
        content = urlsafe_b64decode(characters + b"=" * (-len(characters) % 4))
    except (UnicodeEncodeError, binascii.Error) as error:
        raise _not_issued() from error
    # Decoding ignores characters and bits that mean nothing, but a token must have only one spelling.
    if urlsafe_b64encode(content).rstrip(b"=") != characters:
        raise _not_issued()
    return content


def _not_issued() -> InvalidRequest:
    return InvalidRequest(_FIELD, "was not issued by this server for this user, filter and scenario")

from __future__ import annotations

import base64
import hashlib

import numpy as np

from inference_server.errors import InvalidRequest
from inference_server.query import NO_FILTER, Query

MAX_SHOWN = 4000


def request_fingerprint(query: Query) -> bytes:
    return hashlib.blake2b(
        repr(
            (
                query.user_id,
                None if query.filter is NO_FILTER else query.filter,
                query.exclude_seen,
                query.diversity,
                query.scenario,
            )
        ).encode(),
        digest_size=16,
    ).digest()


class PageTokens:
    def __init__(self, *, bundle_identity: bytes, key: bytes, num_items: int):
        self._i = bundle_identity
        self._k = key
        self._n = num_items

    def issue(self, shown, fp):
        if len(shown) > MAX_SHOWN:
            return ""
        body = b"\x01" + self._i + shown.astype("<u4").tobytes()
        return (
            base64.urlsafe_b64encode(body + hashlib.blake2b(fp + body, key=self._k, digest_size=16).digest())
            .rstrip(b"=")
            .decode()
        )

    def open(self, token, fp):
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        body, mac = raw[:-16], raw[-16:]
        if body[1:9] != self._i:
            raise InvalidRequest("page_token", "belongs to a bundle that is no longer served")
        if hashlib.blake2b(fp + body, key=self._k, digest_size=16).digest() != mac:
            raise InvalidRequest("page_token", "bad")
        return np.frombuffer(body[9:], "<u4").astype(np.int64)


def tokens_of_bundle(manifest: bytes, num_items: int):
    h = hashlib.sha256(manifest).digest()
    return PageTokens(bundle_identity=h[:8], key=h, num_items=num_items)

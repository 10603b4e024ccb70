"""HTTP requests from a seed: valid ones, and valid ones with something wrong in their values, their heads or their
bytes."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import Any, Final

_VALID: Final[tuple[tuple[str, str, Any], ...]] = (
    ("POST", "/v1/recommend", {"user_id": "u", "num_items": 3, "recent_item_ids": ["item-1"], "explain": True}),
    ("POST", "/v1/recommend", {"context": {"device": "phone"}, "diversity": 0.5, "scenario": "", "page_token": ""}),
    (
        "POST",
        "/v1/recommend",
        {
            "filter": {
                "include_categories": ["a"],
                "exclude_item_ids": ["item-2"],
                "attributes": [{"name": "year", "min": 1990, "max": 2000, "any_of": ["1995"]}],
            }
        },
    ),
    (
        "POST",
        "/v1/recommend/many",
        {
            "queries": [{"correlation_id": "a", "request": {"user_id": "u", "num_items": 2}}, {"request": {}}],
            "priority": "RECOMMEND_PRIORITY_BULK",
        },
    ),
    ("POST", "/v1/similar-items", {"item_ids": ["item-1", "item-2"], "num_items": 2}),
    (
        "POST",
        "/v1/events",
        {
            "events": [
                {
                    "event_id": "e",
                    "user_id": "u",
                    "item_id": "item-1",
                    "type": "EVENT_TYPE_CLICK",
                    "occurred_at": "2026-01-31T12:00:00Z",
                    "position": 1,
                }
            ]
        },
    ),
    ("PUT", "/v1/items", {"items": [{"item_id": "new", "title": "t", "categories": ["a"], "attributes": {"year": 1}}]}),
    ("POST", "/v1/items/delete", {"item_ids": ["new"]}),
    ("GET", "/v1/status", None),
    ("GET", "/openapi.json", None),
    ("GET", "/schemas/error.json", None),
    ("HEAD", "/readyz", None),
    ("GET", "/healthz", None),
)
_HEADERS: Final = (
    "content-length: -1",
    "content-length: 99999999999999999999",
    "content-length: 0x10",
    "transfer-encoding: chunked",
    "transfer-encoding: gzip, chunked",
    "content-encoding: br",
    "content-encoding: gzip",
    "content-type: text/plain",
    "content-type: application/json; charset=utf-16",
    "content-type: \xff",
    "x-timeout-ms: 0",
    "x-timeout-ms: 1e9",
    "x-timeout-ms: \xb2",
    "authorization: Bearer \xe4",
    "x-api-key: " + "k" * 5000,
    "traceparent: 00-" + "0" * 32 + "-" + "0" * 16 + "-01",
    "traceparent: \xff\xff",
    "expect: 100-continue",
    "connection: upgrade\r\nupgrade: h2c",
    "connection: keep-alive, close",
    "origin: https://shop.example",
    "a:" + " " * 20_000,
    "a: b\r\n" * 150 + "c: d",
    " folded",
    "no colon",
    "x: a\x00b",
    ": empty name",
    "trailer: x-api-key",
)
_WORDS: Final = ("\ud800", "\x00", "ü" * 200, "x" * 300, "", "item-1", "NaN", "../../etc/passwd", "1e999", "'\"<>")
_NUMBERS: Final = (0, -1, 2**31, 2**63, 2**64, 10**400, 0.1, -0.0, 1e308, float("nan"), float("inf"))


class Requests:
    """An endless supply."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def request(self) -> bytes:
        """The bytes of one request, whole or not."""
        choose = self._random.random
        method, path, payload = self._random.choice(_VALID)
        if payload is not None and choose() < 0.8:
            payload = self._changed(payload)
        if choose() < 0.1:
            method = self._random.choice(("GET", "POST", "OPTIONS", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW", "m"))
        if choose() < 0.1:
            path = self._random.choice(
                (path + "/", path + "?a=%ff", "/%00", "*", "http://x" + path, "//", path.upper())
            )
        lines = [f"{method} {path} HTTP/1.{int(choose() < 0.95)}", "host: x", "connection: close"]
        body = b"" if payload is None else self._body(payload, lines)
        if choose() < 0.3:
            lines.append(self._random.choice(_HEADERS))
        request = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
        return self._damaged(request) if choose() < 0.2 else request

    def _body(self, payload: Any, lines: list[str]) -> bytes:
        text = json.dumps(payload)
        if self._random.random() < 0.1:
            text = self._random.choice(
                (text[: len(text) // 2], "[" * 5000, '{"a":' * 900 + "1" + "}" * 900, "", "null")
            )
        body = text.encode("utf-8", "surrogatepass")
        if self._random.random() < 0.1:
            body = b"\xef\xbb\xbf" + body
        lines.append("content-type: application/json")
        packed = self._random.random()
        if packed < 0.1:
            lines.append("content-encoding: gzip")
            body = gzip.compress(body, mtime=0)
        elif packed < 0.15:
            lines.append("content-encoding: deflate")
            body = zlib.compress(body)
        if self._random.random() < 0.2:
            lines.append("transfer-encoding: chunked")
            return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part) + b"0\r\n\r\n"
        lines.append(f"content-length: {len(body)}")
        return body

    def _changed(self, value: Any, depth: int = 0) -> Any:
        """The value with some of its parts replaced, added or removed."""
        choose = self._random.random()
        if choose < 0.15:
            return self._anything(depth)
        if isinstance(value, dict):
            changed = {
                name: self._changed(part, depth + 1) for name, part in value.items() if self._random.random() > 0.05
            }
            if choose > 0.9:
                changed[self._random.choice((*_WORDS, "user_id", "filter", "items"))] = self._anything(depth)
            return changed
        if isinstance(value, list):
            return [self._changed(part, depth + 1) for part in value] * self._random.choice((1, 1, 1, 0, 2, 1500))
        return value

    def _anything(self, depth: int) -> Any:
        choices = [None, True, *_WORDS, *_NUMBERS, [], {}]
        if depth < 5:
            choices += [[self._anything(depth + 1)], {self._random.choice(_WORDS): self._anything(depth + 1)}]
        return self._random.choice(choices)

    def _damaged(self, request: bytes) -> bytes:
        """The request with some bytes replaced, repeated or cut off."""
        kind = self._random.randrange(4)
        place = self._random.randrange(len(request))
        if kind == 0:
            return request[:place]
        if kind == 1:
            return request[:place] + self._random.randbytes(self._random.randrange(1, 9)) + request[place + 4 :]
        if kind == 2:
            return request[:place] + request
        return self._random.randbytes(self._random.randrange(1, 300))

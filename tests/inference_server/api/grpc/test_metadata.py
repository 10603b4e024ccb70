"""The values that are read from a call's metadata."""

from __future__ import annotations

import pytest

from inference_server.api.grpc.metadata import Metadata, presented_key, traceparent


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ((), None),
        ((("authorization", "Bearer abc"),), "abc"),
        ((("authorization", "BEARER abc"),), "abc"),
        ((("authorization", "abc"), ("x-api-key", "def")), "def"),
        ((("x-api-key", "def"), ("authorization", "Bearer abc")), "def"),
        ((("authorization-bin", b"Bearer abc"),), None),
    ],
)
def test_the_presented_key(metadata: Metadata, key: str | None) -> None:
    assert presented_key(metadata) == key


def test_the_traceparent() -> None:
    assert traceparent((("user-agent", "x"), ("traceparent", "00-a-b-01"))) == "00-a-b-01"
    assert traceparent((("tracestate", "x=y"),)) is None

"""Every exception that may reach a caller has a gRPC status."""

from __future__ import annotations

import grpc

from inference_server.api.grpc.status_of_errors import STATUS_OF
from inference_server.core.errors import RequestError


def subclasses(of: type) -> set[type]:
    return {sub for direct in of.__subclasses__() for sub in {direct, *subclasses(direct)}}


def test_no_request_error_is_missing_from_the_table() -> None:
    assert set(STATUS_OF) == subclasses(RequestError)


def test_no_request_error_is_told_as_our_fault() -> None:
    assert grpc.StatusCode.INTERNAL not in STATUS_OF.values()
    assert grpc.StatusCode.UNKNOWN not in STATUS_OF.values()

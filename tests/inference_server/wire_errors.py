"""The errors of refused calls, for tests over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status


async def refused(call: Awaitable[Any], code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    """The error that a call ends in, which must have the status `code`."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    return caught.value


async def refused_field(call: Awaitable[Any]) -> str:
    """The field that an INVALID_ARGUMENT names."""
    error = await refused(call, grpc.StatusCode.INVALID_ARGUMENT)
    status = rpc_status.from_call(error)
    assert status is not None
    details = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(details)
    (violation,) = details.field_violations
    return str(violation.field)

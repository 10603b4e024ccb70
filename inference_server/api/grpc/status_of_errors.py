"""The gRPC status of a request that gets no answer: one table from exception to status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from inference_server.core.errors import (
    DeadlineTooShort,
    InvalidRequest,
    NoModel,
    OverCapacity,
    PermissionDenied,
    RequestError,
    StreamUnavailable,
    Unauthenticated,
    UnknownItem,
)

STATUS_OF: Final[Mapping[type[RequestError], grpc.StatusCode]] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    DeadlineTooShort: grpc.StatusCode.DEADLINE_EXCEEDED,
    OverCapacity: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StreamUnavailable: grpc.StatusCode.UNAVAILABLE,
    NoModel: grpc.StatusCode.UNAVAILABLE,
    UnknownItem: grpc.StatusCode.NOT_FOUND,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
}
"""Every class under RequestError; a test fails when one is missing."""


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: RequestError) -> NoReturn:
    """Ends the call with the status of `error`, and its details as google.rpc messages. Always raises."""
    status = status_pb2.Status(code=code_pb2.Code.Value(STATUS_OF[type(error)].name), message=str(error))
    for detail in _details(error):
        status.details.add().Pack(detail)
    rich = rpc_status.to_status(status)
    await context.abort(rich.code, rich.details, trailing_metadata=rich.trailing_metadata)


def _details(error: RequestError) -> Iterable[Message]:
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.description)
        yield error_details_pb2.BadRequest(field_violations=[violation])
    elif isinstance(error, OverCapacity):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        yield retry

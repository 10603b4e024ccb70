"""Exceptions of the client.

TandemError                 a call without an answer, with its status code and number of attempts
+-- InvalidRequest          a field of the request is outside what the API allows: `field`, `description`
|   +-- InvalidArgument     an argument that cannot be sent to any server: nothing was sent; also ValueError, TypeError
|   +-- PageExpired         `page_token` belongs to another bundle or other arguments: start again at the first page
+-- NotFound                `similar_items` names an item that is not in the catalogue
+-- OverCapacity            the server accepts no more requests now: `retry_after_seconds`
+-- DeadlineExceeded        no answer within the deadline
+-- Unavailable             no server answers at the address, or it serves no model yet
+-- Unauthenticated         credentials are missing, wrong or insufficient
+-- Cancelled               the client was closed during the call
|   +-- ClientClosed        a call on a client that was closed before; also RuntimeError
+-- ServerError             the server failed or does not know the method: find `request_id` in the server's log

No exception of gRPC or protobuf leaves the client. InvalidArgument (an address without a port, a string instead of a
list of strings, a time without a zone) and ClientClosed are bugs in the program, not outcomes of a call; so they are
also what Python raises for such bugs.

`EXCEPTION_OF` is the only table from status code to exception, for calls and for batch entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tandem.v1 import recommendation_pb2 as pb

_DETAILS_KEY: Final = "grpc-status-details-bin"
_REQUEST_ID: Final = re.compile(r"\brequest_id (\w+)")
_NO_TLS: Final = "WRONG_VERSION_NUMBER"
"""OpenSSL's word for bytes in which it finds no TLS; gRPC's message has it."""
_PAGE_TOKEN: Final = "page_token"
_CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Details of a call, or of a batch entry, without an answer."""

    code: grpc.StatusCode
    message: str
    field: str = ""
    """Path of the invalid field, as the API writes it; empty if the server named none."""
    description: str = ""
    """What is wrong with the field."""
    retry_after_seconds: float | None = None
    """Delay that the server asks for; None if it asks for none."""
    num_attempts: int = 1
    """Number of attempts, including hedges."""


class TandemError(Exception):
    """A call without an answer. Its text is the server's message."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.message

    @property
    def code(self) -> grpc.StatusCode:
        """gRPC status code of the call."""
        return self.failure.code

    @property
    def num_attempts(self) -> int:
        """Number of attempts, including hedges."""
        return self.failure.num_attempts


class InvalidRequest(TandemError):
    """A field of the request is outside what the API allows."""

    @property
    def field(self) -> str:
        """Path of the field, for example "filter.exclude_item_ids"; empty if the server named none."""
        return self.failure.field

    @property
    def description(self) -> str:
        """What is wrong with the field."""
        return self.failure.description


class InvalidArgument(InvalidRequest, ValueError, TypeError):
    """An argument that cannot be sent: it has the wrong type, or the wire cannot hold its value. Nothing was sent."""


class PageExpired(InvalidRequest):
    """The page token belongs to a bundle that is no longer served, or to other arguments."""


class NotFound(TandemError):
    """An item that the request names is not in the catalogue."""


class OverCapacity(TandemError):
    """The server is at its limit of concurrent requests."""

    @property
    def retry_after_seconds(self) -> float:
        """Delay that the server asks for before a retry; 0 if it gave none."""
        return self.failure.retry_after_seconds or 0.0


class DeadlineExceeded(TandemError):
    """No answer within the deadline of the call, over all attempts."""


class Unavailable(TandemError):
    """No server answers at the address, it stopped during the call, or it serves no model yet."""


class Unauthenticated(TandemError):
    """Credentials are missing, wrong or insufficient."""


class Cancelled(TandemError):
    """The client was closed during the call."""


class ClientClosed(Cancelled, RuntimeError):
    """The client was closed before the call."""


class ServerError(TandemError):
    """The server failed, or does not know the method."""

    @property
    def request_id(self) -> str:
        """Id of the failed request in the server's log; empty if the server sent none."""
        found = _REQUEST_ID.search(self.failure.message)
        return found[1] if found else ""


EXCEPTION_OF: Final[Mapping[grpc.StatusCode, type[TandemError]]] = {
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: InvalidRequest,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverCapacity,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.ABORTED: ServerError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: ServerError,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: ServerError,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}
"""All status codes but OK; a test fails if a code is missing."""


def error_of(failure: Failure) -> TandemError:
    """The exception for a failure."""
    kind = EXCEPTION_OF[failure.code]
    if kind is InvalidRequest and failure.field == _PAGE_TOKEN:
        kind = PageExpired
    return kind(failure)


def failure_of(
    code: grpc.StatusCode, message: str | None, trailing_metadata: Iterable[tuple[str, str | bytes]] | None
) -> Failure:
    """The failure of a call with this status. Unreadable error details are ignored."""
    field = description = ""
    retry_after_seconds = None
    for detail in _details(trailing_metadata):
        violations, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(violations) and violations.field_violations:
            field = violations.field_violations[0].field
            description = violations.field_violations[0].description
        elif detail.Unpack(retry):
            retry_after_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    message = message or code.name
    if _NO_TLS in message:
        message = f"the server does not speak TLS; grpc://host:port is the address of one that does not ({message})"
    return Failure(
        code=code,
        message=message,
        field=field,
        description=description,
        retry_after_seconds=retry_after_seconds,
    )


def batch_failure_of(error: pb.BatchError) -> Failure:
    """The failure of a refused batch entry."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.OK:  # an error with the code OK
        code = grpc.StatusCode.UNKNOWN
    # The message of an invalid entry begins with the field, like the message of a call.
    description = error.message.removeprefix(f"{error.field}: ") if error.field else ""
    return Failure(code=code, message=error.message or code.name, field=error.field, description=description)


def _details(trailing_metadata: Iterable[tuple[str, str | bytes]] | None) -> list[error_details_pb2.Any]:
    for key, value in trailing_metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []

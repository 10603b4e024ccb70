"""Exceptions of the client.

TandemError                 every call that gets no answer, with its status code and how many attempts were made
+-- InvalidRequest          a field of the request is outside what the API allows: `field`, `description`
|   +-- PageExpired         `page_token` is of another bundle, or of other arguments: start again at the first page
+-- NotFound                `similar_items` names an item that the catalogue does not hold
+-- OverCapacity            the server takes no more requests now: `retry_after_seconds`
+-- DeadlineExceeded        the time of the call was over first
+-- Unavailable             nobody answers at the address, or no model is served there yet
+-- Unauthenticated         credentials are missing or wrong, or do not allow the call
+-- Cancelled               the client was closed during the call, or something on the way gave it up
+-- ServerError             the server failed, or does not know the call: `request_id` names it in the server's log

Arguments that no server could be sent (an address without a port, a text where a list of texts belongs) are ValueError
and TypeError, and a call on a closed client is a RuntimeError: mistakes in the program, not outcomes of a call.

`EXCEPTION_OF` is the one table from status code to exception, for calls and for entries of a batch alike.
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
_PAGE_TOKEN: Final = "page_token"
_CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What is known of a call, or of an entry of a batch, that got no answer."""

    code: grpc.StatusCode
    message: str
    field: str = ""
    """Path of the field that is wrong, as the API writes it; empty where none was named."""
    description: str = ""
    """What is wrong with that field."""
    retry_after_seconds: float | None = None
    """How long the server asks to wait; None where it asks for nothing."""
    num_attempts: int = 1
    """How often the server was asked, hedges included."""


class TandemError(Exception):
    """A call that got no answer. Its text is the server's message."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.message

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status that the call ended with."""
        return self.failure.code

    @property
    def num_attempts(self) -> int:
        """How often the server was asked, hedges included."""
        return self.failure.num_attempts


class InvalidRequest(TandemError):
    """A field of the request is outside what the API allows."""

    @property
    def field(self) -> str:
        """Path of the field, for example "filter.exclude_item_ids"; empty where none was named."""
        return self.failure.field

    @property
    def description(self) -> str:
        """What is wrong with that field."""
        return self.failure.description


class PageExpired(InvalidRequest):
    """The page token is of a bundle that is served no more, or of other arguments."""


class NotFound(TandemError):
    """An item that the request is about is not in the catalogue."""


class OverCapacity(TandemError):
    """The server answers as many requests at once as it may."""

    @property
    def retry_after_seconds(self) -> float:
        """How long the server asks to wait before the next try; 0 where it did not say."""
        return self.failure.retry_after_seconds or 0.0


class DeadlineExceeded(TandemError):
    """No answer within the time of the call, all attempts together."""


class Unavailable(TandemError):
    """Nobody answers at the address, or no model is served there yet."""


class Unauthenticated(TandemError):
    """Credentials are missing or wrong, or do not allow the call."""


class Cancelled(TandemError):
    """The client was closed during the call, or something on the way to the server gave it up."""


class ServerError(TandemError):
    """The server failed, or does not know the call."""

    @property
    def request_id(self) -> str:
        """Names the failure in the server's log; empty where the server did not say."""
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
"""Every status code but OK; a test fails when one is missing."""


def error_of(failure: Failure) -> TandemError:
    """The exception for a failure."""
    kind = EXCEPTION_OF[failure.code]
    if kind is InvalidRequest and failure.field == _PAGE_TOKEN:
        kind = PageExpired
    return kind(failure)


def failure_of(
    code: grpc.StatusCode, message: str | None, trailing_metadata: Iterable[tuple[str, str | bytes]] | None
) -> Failure:
    """What a call that ended with this status tells. Details that cannot be read count as none."""
    field = description = ""
    retry_after_seconds = None
    for detail in _details(trailing_metadata):
        violations, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(violations) and violations.field_violations:
            field = violations.field_violations[0].field
            description = violations.field_violations[0].description
        elif detail.Unpack(retry):
            retry_after_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    return Failure(
        code=code,
        message=message or code.name,
        field=field,
        description=description,
        retry_after_seconds=retry_after_seconds,
    )


def batch_failure_of(error: pb.BatchError) -> Failure:
    """What an entry of a batch that was refused tells."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.OK:  # an error that says it is none
        code = grpc.StatusCode.UNKNOWN
    # The message of an entry that is wrong begins with the field, as that of a call does.
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

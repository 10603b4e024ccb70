"""Decodes the messages of callers. grpcio would end a call whose message cannot be decoded in UNKNOWN, as a fault of
the server, with a stack trace in the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError

from inference_server.core.errors import InvalidRequest
from inference_server.telemetry.line_limit import LineLimit
from inference_server.telemetry.statistics import Statistics

_log = structlog.get_logger()

MESSAGE: Final = "message"
"""The name of the whole message in errors."""

_M = TypeVar("_M")


class Decoder:
    """Decodes the messages of one server, counts those that it cannot decode, and logs some of them."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._lines = LineLimit()

    def decode(self, method: str, from_bytes: Callable[[bytes], _M], raw: bytes | grpc.aio.EOF) -> _M:  # type: ignore[valid-type]  # its type has no name
        """One message of a call of `method`, "package.Service/Method". Raises InvalidRequest."""
        if raw is grpc.aio.EOF:
            raise self._refused(method, "is missing: the call ended without one")
        try:
            return from_bytes(raw)
        except DecodeError as error:
            raise self._refused(method, f"cannot be decoded: {error}") from None

    async def decoded(
        self, method: str, from_bytes: Callable[[bytes], _M], messages: AsyncIterator[bytes]
    ) -> AsyncIterator[_M]:
        """All messages of a stream. Raises InvalidRequest at the first that cannot be decoded."""
        async for raw in messages:
            yield self.decode(method, from_bytes, raw)

    def _refused(self, method: str, problem: str) -> InvalidRequest:
        self._statistics.undecodable_by_method[method] += 1
        left_out = self._lines.admit(method)
        if left_out is not None:
            _log.warning("message_undecodable", method=method, reason=problem, left_out=left_out)
        return InvalidRequest(MESSAGE, problem)

"""API keys for gRPC: one interceptor before every method.

It costs about 16 microseconds a call, 3 more than the same check inside a method would (docs/decisions/0012), but also
covers reflection, channelz and methods that are added later. Without keys it is not installed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health

from inference_server.api.grpc.metadata import presented_key
from inference_server.api.grpc.status_of_errors import abort
from inference_server.core.errors import Unauthenticated
from inference_server.security.api_keys import ApiKeys, current_caller

_log = structlog.get_logger()

_HEALTH_METHODS: Final = f"/{health.SERVICE_NAME}/"
"""Open to all callers: an orchestrator has no key, and the answer is one word."""

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class KeyRequired(grpc.aio.ServerInterceptor):
    """Refuses calls without a valid key, before their messages are read."""

    def __init__(self, api_keys: ApiKeys) -> None:
        self._api_keys = api_keys
        # A stream handler answers without waiting for a message, whatever the type of the method that was called.
        self._refusal: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(_refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Lets the call through, with its caller's name in `current_caller`, or refuses it."""
        if not handler_call_details.method.startswith(_HEALTH_METHODS):
            try:
                current_caller.set(self._api_keys.check(presented_key(handler_call_details.invocation_metadata)))
            except Unauthenticated:
                _log.debug("unauthenticated", method=handler_call_details.method)
                return self._refusal
        return await continuation(handler_call_details)


async def _refuse(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await abort(context, Unauthenticated("missing or wrong credentials"))

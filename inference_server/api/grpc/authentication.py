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
from inference_server.core.errors import RequestError
from inference_server.security.api_keys import ApiKeys
from inference_server.security.callers import Right, current_caller, right_of
from tandem.v1 import recommendation_pb2 as pb

_log = structlog.get_logger()

_HEALTH_METHODS: Final = f"/{health.SERVICE_NAME}/"
"""Open to all callers: an orchestrator has no key, and the answer is one word."""
_API_METHODS: Final = f"/{pb.DESCRIPTOR.services_by_name['RecommendationService'].full_name}/"
_REFLECTION_METHODS: Final = "/grpc.reflection."
"""For every key: the answer is the public definition of the API."""

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class KeyRequired(grpc.aio.ServerInterceptor):
    """Refuses calls without a valid key, or with a key that does not allow the method, before their messages are
    read."""

    def __init__(self, api_keys: ApiKeys) -> None:
        self._api_keys = api_keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Lets the call through, with its caller in `current_caller`, or refuses it."""
        method = handler_call_details.method
        if not method.startswith(_HEALTH_METHODS):
            try:
                caller = self._api_keys.check(presented_key(handler_call_details.invocation_metadata))
                if not method.startswith(_REFLECTION_METHODS):
                    caller.require(_right_of(method))
            except RequestError as error:
                _log.debug("refused", method=method, reason=str(error))
                return _refusal(error)
            current_caller.set(caller)
        return await continuation(handler_call_details)


def _right_of(method: str) -> Right:
    """The right that a method needs, by its full name: OPERATE for channelz, and for what is no method of the API."""
    return right_of(method.removeprefix(_API_METHODS)) if method.startswith(_API_METHODS) else Right.OPERATE


def _refusal(error: RequestError) -> _Handler:
    """A stream handler, which answers without waiting for a message, whatever the type of the method is."""

    async def refuse(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await abort(context, error)

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(refuse)
    return handler

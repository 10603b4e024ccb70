"""Handlers of methods that decode, encode and report for themselves, for every service of the server.

An exception that leaves a handler is reported by grpcio as UNKNOWN, with its text for the caller and a stack trace in
the log. So none leaves one: a message that cannot be decoded is the caller's mistake, and anything else is a bug of
ours, of which the caller learns an id.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias

import grpc

from inference_server.api.grpc.decoding import Decoder
from inference_server.api.grpc.status_of_errors import abort
from inference_server.api.internal_error import internal_error
from inference_server.core.errors import RequestError

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Services:
    """Takes the place of a server in the generated functions that add a servicer, and adds guarded handlers to it."""

    def __init__(
        self, server: grpc.aio.Server, decoder: Decoder, *, raw: frozenset[str], hot: frozenset[str] = frozenset()
    ) -> None:
        """`raw` names the methods with streamed requests that take them as bytes, and decode them by themselves.

        `hot` names the unary methods whose cost per call matters more than an answer to a call without a message, which
        grpcio leaves waiting until its deadline.
        """
        self._server = server
        self._decoder = decoder
        self._raw = raw
        self._hot = hot
        self.methods: list[str] = []
        """Names of all methods, "package.Service/Method"."""
        self.num_answering = 0
        """Unary calls whose message has arrived and whose answer is being made."""
        self.streams: list[str] = []
        """Names of the methods that stream responses: a call may last for as long as its client pleases."""

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Does nothing: the generated functions register every method by name as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, _Handler]) -> None:
        """Registers the methods of a service."""
        guarded = {name: self._guarded(f"{service}/{name}", handler) for name, handler in handlers.items()}
        self.methods += [f"{service}/{name}" for name in handlers]
        self.streams += [f"{service}/{name}" for name, handler in handlers.items() if handler.response_streaming]
        self._server.add_registered_method_handlers(service, guarded)

    def _guarded(self, method: str, handler: _Handler) -> _Handler:
        if not handler.response_streaming:
            assert not handler.request_streaming, "no service has a method with streamed requests alone"
            unary = self._unary(method, handler)
            if method in self._hot:
                return grpc.unary_unary_rpc_method_handler(unary)

            async def reads_its_message(_: object, context: _Context) -> bytes:
                return await unary(await context.read(), context)

            # As if requests were streamed: grpcio leaves a call that has none unanswered until its deadline.
            return grpc.stream_unary_rpc_method_handler(reads_its_message)
        return grpc.stream_stream_rpc_method_handler(
            self._streaming(method, handler), response_serializer=handler.response_serializer
        )

    def _unary(self, method: str, handler: _Handler) -> Callable[[Any, _Context], Coroutine[Any, Any, bytes]]:
        answer: Any = handler.unary_unary  # grpcio's types know only handlers that are not coroutines
        from_bytes, to_bytes = handler.request_deserializer, handler.response_serializer
        assert from_bytes is not None
        assert to_bytes is not None
        decode = self._decoder.decode

        async def guarded(message: Any, context: _Context) -> bytes:
            self.num_answering += 1
            try:
                request = decode(method, from_bytes, message)
                response = await answer(request, context)
                if response is None:  # channelz does so where it sets another status
                    await context.abort(context.code(), context.details())
                return to_bytes(response)
            except Exception as error:
                await _failed(error, context)
            finally:
                self.num_answering -= 1

        return guarded

    def _streaming(self, method: str, handler: _Handler) -> Callable[[AsyncIterator[bytes], _Context], Any]:
        from_bytes = handler.request_deserializer
        answer: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
        assert from_bytes is not None
        decoder, is_raw = self._decoder, method in self._raw

        async def responses(messages: AsyncIterator[bytes], context: _Context) -> AsyncGenerator[Any, None]:
            request: Any = messages
            if not handler.request_streaming:
                request = decoder.decode(method, from_bytes, await context.read())
            elif not is_raw:
                request = decoder.decoded(method, from_bytes, messages)
            answering = answer(request, context)
            if inspect.isawaitable(answering):  # it writes its responses to the context
                await answering
                return
            async with aclosing(answering):
                async for response in answering:
                    yield response

        async def guarded(messages: AsyncIterator[bytes], context: _Context) -> AsyncGenerator[Any, None]:
            try:
                async with aclosing(responses(messages, context)) as answering:
                    async for response in answering:
                        yield response
            except Exception as error:
                await _failed(error, context)

        return guarded


def _is_grpcs_own(error: Exception) -> bool:
    """Whether grpcio raises it to end the call: it was aborted, the caller has gone, or the server stops."""
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError)


async def _failed(error: Exception, context: _Context) -> NoReturn:
    """Ends the call with the status of an exception that is being handled."""
    if _is_grpcs_own(error):
        raise error
    if isinstance(error, RequestError):
        await abort(context, error)
    # A bug of ours: the log gets the details, the caller only an id.
    await context.abort(grpc.StatusCode.INTERNAL, internal_error().message)

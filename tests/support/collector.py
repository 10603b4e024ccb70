"""An OpenTelemetry collector that keeps the spans it receives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Answers calls while `released` is set; without it, calls wait."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.service_names: set[str] = set()
        self.num_calls = 0
        self.released = asyncio.Event()
        self.released.set()

    async def Export(  # noqa: N802
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: Any,  # noqa: ARG002
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.num_calls += 1
        await self.released.wait()
        for resource in request.resource_spans:
            attributes = {attribute.key: attribute.value for attribute in resource.resource.attributes}
            self.service_names.add(attributes["service.name"].string_value)
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """Runs a collector during the block."""
    servicer = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)
    servicer.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield servicer
    finally:
        servicer.released.set()
        await server.stop(0)


def attributes_of(span: Span) -> dict[str, Any]:
    """A span's attributes as plain values."""
    return {item.key: getattr(item.value, str(item.value.WhichOneof("value"))) for item in span.attributes}

"""The gRPC server in this process around a servicer that a test controls, and the parts of HTTP/2 that gRPC hides."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc

from inference_server.api.grpc.server import GrpcServer
from inference_server.security.callers import caller_name
from inference_server.telemetry.statistics import Statistics
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc
from tests.support.serving import PATIENCE_SECONDS

CALL = b"/tandem.v1.RecommendationService/Recommend"
EMPTY_MESSAGE = bytes(5)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x7
_END_STREAM, _END_HEADERS = 0x1, 0x4
MAX_CONCURRENT_STREAMS = 0x3


class Servicer(pb_grpc.RecommendationServiceServicer):
    """Answers with the caller's name as request_id, while `released`."""

    def __init__(self) -> None:
        self.num_started = 0
        self.released = asyncio.Event()
        self.released.set()

    async def Recommend(self, _: pb.RecommendRequest, context: Any) -> pb.RecommendResponse:  # noqa: N802, ARG002
        self.num_started += 1
        await self.released.wait()
        return pb.RecommendResponse(request_id=caller_name())

    async def RecommendBatch(  # noqa: N802
        self,
        entries: AsyncIterator[bytes],
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.RecommendBatchResponse]:
        async for entry in entries:
            yield pb.RecommendBatchResponse(correlation_id=pb.RecommendBatchRequest.FromString(entry).correlation_id)


@dataclass(frozen=True, kw_only=True)
class Served:
    server: GrpcServer
    servicer: Servicer
    statistics: Statistics
    address: str
    port: int


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Served]:
    """A running server; `options` are those of `GrpcServer`."""
    servicer = Servicer()
    statistics = Statistics()
    options = {"reflection_enabled": False, **options}
    server = GrpcServer(servicer, statistics, host="127.0.0.1", port=0, **options)
    await server.start()
    try:
        address = f"127.0.0.1:{server.port}"
        yield Served(server=server, servicer=servicer, statistics=statistics, address=address, port=server.port)
    finally:
        servicer.released.set()
        await server.stop(grace_seconds=0)


@asynccontextmanager
async def stub_of(
    address: str, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[pb_grpc.RecommendationServiceStub]:
    """A stub on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=options)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=options)
    async with channel:
        yield pb_grpc.RecommendationServiceStub(channel)


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[asyncio.StreamReader]:
    """A peer that opens an HTTP/2 connection and then sends nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE + _settings_frame() + _settings_frame(acknowledge=True))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield reader
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def raw_call(
    port: int, *, path: bytes = CALL, extra: Sequence[tuple[bytes, bytes]] = (), data: bytes = b""
) -> bytes:
    """One call whose bytes no gRPC client would send; returns the last frame of headers, which has the status.

    `data` are the bytes of its messages, each with gRPC's prefix. Raises ConnectionError if the server closes the
    connection first.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"test"), *extra]
    head += [(b"te", b"trailers"), (b"content-type", b"application/grpc")]
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in head)
    frames = _frame(HEADERS, _END_HEADERS, block) + _frame(DATA, _END_STREAM, data)
    writer.write(PREFACE + _settings_frame() + _settings_frame(acknowledge=True) + frames)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                kind, payload = await read_frame(reader)
                if kind in {RST_STREAM, GOAWAY}:
                    raise ConnectionError(payload)
                if kind == HEADERS and b"grpc-status" in payload:
                    return payload
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("closed") from error
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Type and payload of the next HTTP/2 frame. Raises IncompleteReadError at the end of the connection."""
    header = await reader.readexactly(9)
    return header[3], await reader.readexactly(int.from_bytes(header[:3], "big"))


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", 1) + payload


def _settings_frame(*, acknowledge: bool = False) -> bytes:
    return struct.pack(">I", 0)[1:] + bytes([SETTINGS, int(acknowledge)]) + struct.pack(">I", 0)


def settings_of(payload: bytes) -> dict[int, int]:
    return dict(struct.iter_unpack(">HI", payload))

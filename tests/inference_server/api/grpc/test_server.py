"""Limits of a connection: size of a request, concurrent calls, keepalive; and the services beside the API."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from inference_server.api.grpc.server import Limits
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.api.grpc.served import (
    MAX_CONCURRENT_STREAMS,
    SETTINGS,
    connection,
    read_frame,
    served,
    settings_of,
    stub_of,
)
from tests.support.serving import wait_until

pytestmark = pytest.mark.process


async def test_a_request_above_the_limit_is_refused_by_grpc_itself() -> None:
    async with served(limits=Limits(max_request_bytes=2000)) as server, stub_of(server.address) as stub:
        await stub.Recommend(pb.RecommendRequest(user_id="u" * 1900))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Recommend(pb.RecommendRequest(user_id="u" * 2000))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.servicer.num_started == 1
        await stub.Recommend(pb.RecommendRequest(user_id="u" * 1900))


@pytest.mark.parametrize(("limits", "advertised"), [(Limits(), 64), (Limits(max_streams=7), 7)])
async def test_the_limit_of_streams_is_advertised(limits: Limits, advertised: int) -> None:
    async with served(limits=limits) as server, connection(server.port) as reader:
        kind, payload = await read_frame(reader)
        assert kind == SETTINGS
        assert settings_of(payload)[MAX_CONCURRENT_STREAMS] == advertised


async def test_calls_beyond_the_limit_wait_at_the_client() -> None:
    async with served(limits=Limits(max_streams=2)) as server, stub_of(server.address) as stub:
        await stub.Recommend(pb.RecommendRequest())  # the limit is known once the connection is open
        server.servicer.released.clear()
        calls = [asyncio.ensure_future(stub.Recommend(pb.RecommendRequest())) for _ in range(5)]
        await wait_until(lambda: server.servicer.num_started == 3, "two of five have begun")
        # Another connection is not held up, and by the time it is answered a third call would have begun.
        async with stub_of(server.address) as other:
            call = asyncio.ensure_future(other.Recommend(pb.RecommendRequest()))
            await wait_until(lambda: server.servicer.num_started == 4, "the call of another connection has begun")
            assert not any(call.done() for call in calls)
            server.servicer.released.set()
            await call
        await asyncio.gather(*calls)
        assert server.servicer.num_started == 7


async def test_a_client_with_many_more_calls_than_the_limit_is_refused_none() -> None:
    async with served() as server, stub_of(server.address) as stub:
        await asyncio.gather(*(stub.Recommend(pb.RecommendRequest()) for _ in range(500)))
        assert server.servicer.num_started == 500


async def test_a_peer_that_gives_no_sign_of_life_is_dropped() -> None:
    limits = Limits(keepalive_seconds=1.0, keepalive_timeout_seconds=0.1)
    async with served(limits=limits) as server, connection(server.port) as reader:
        with suppress(ConnectionResetError):
            await reader.read(-1)  # ends when the server has closed the connection


async def test_channelz_can_be_switched_off() -> None:
    async with served(channelz_enabled=False) as server, grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channelz_pb2_grpc.ChannelzStub(channel).GetServers(channelz_pb2.GetServersRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

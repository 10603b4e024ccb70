"""Pings of idle clients. gRPC disconnects a client with the third ping in a row that came too early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_server.api.grpc.server import Limits
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc
from tests.inference_server.api.grpc.served import served
from tests.support.serving import PATIENCE_SECONDS

pytestmark = pytest.mark.process

PING_SECONDS = 1.0
IDLE_SECONDS = 5.5
"""More than four pings."""
READY = grpc.ChannelConnectivity.READY


@asynccontextmanager
async def pinging(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A client that pings every second, with and without calls, until it is disconnected."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", int(PING_SECONDS * 1e3)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


async def test_clients_that_keep_to_the_interval_stay_connected() -> None:
    async with (
        served(limits=Limits(min_ping_interval_seconds=PING_SECONDS / 2)) as server,
        pinging(server.address) as idle,
        pinging(server.address) as watching,
    ):
        await pb_grpc.RecommendationServiceStub(idle).Recommend(pb.RecommendRequest())
        watch = health_pb2_grpc.HealthStub(watching).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        lost = [asyncio.ensure_future(channel.wait_for_state_change(READY)) for channel in (idle, watching)]
        done, _ = await asyncio.wait(lost, timeout=IDLE_SECONDS)
        assert not done, "neither the idle connection nor the one with a quiet stream has been closed"
        await server.server.set_serving()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        for waiting in lost:
            waiting.cancel()


async def test_a_client_that_pings_too_often_is_disconnected() -> None:
    async with served(limits=Limits(min_ping_interval_seconds=30.0)) as server, pinging(server.address) as channel:
        await pb_grpc.RecommendationServiceStub(channel).Recommend(pb.RecommendRequest())
        await asyncio.wait_for(channel.wait_for_state_change(READY), PATIENCE_SECONDS)


def test_a_ping_every_ten_seconds_is_allowed_even_if_the_network_delays_one_less_than_the_next() -> None:
    options = dict(Limits().options())
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 9_000

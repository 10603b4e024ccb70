"""Calls that wait when the event loop comes to them, and calls of methods that the server does not have, with names
that grpcio cannot decode among them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import pytest

from inference_server.security.api_keys import ApiKeys, key_line
from inference_server.security.files import Security
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc
from tests.inference_server.api.grpc.served import raw_call, served, stub_of

pytestmark = pytest.mark.process

PATHS = [b"/tandem.v1.RecommendationService/R\xffecommend", b"/\xc3/\xc3", b"\xff", b"/", b"/no.such.Service/Method"]


async def test_a_method_that_does_not_exist_is_unimplemented_and_the_server_goes_on() -> None:
    async with served() as server, stub_of(server.address) as stub:
        for path in PATHS:
            answer = await raw_call(server.port, path=path)
            assert b"grpc-status\x0212" in answer, path
            assert b"Method not found!" in answer
        await stub.Recommend(pb.RecommendRequest())
        assert server.servicer.num_started == 1


async def test_without_a_key_it_is_unauthenticated(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{key_line('shop', 'the-key-of-the-shop')}\n")
    security = Security(api_keys=ApiKeys.load(tmp_path / "keys"))
    async with served(security=security) as server, stub_of(server.address) as stub:
        for path in PATHS:
            assert b"grpc-status\x0216" in await raw_call(server.port, path=path), path
        key = [("x-api-key", "the-key-of-the-shop")]
        await stub.Recommend(pb.RecommendRequest(), metadata=key)
        async with grpc.aio.insecure_channel(server.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/no.such.Service/Method")(b"", metadata=key)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_server_stops_while_it_refuses() -> None:
    async with served() as server:
        await raw_call(server.port, path=b"/\xff")
        await server.server.stop(grace_seconds=5)
        with pytest.raises(OSError, match=r"111|104"):
            await raw_call(server.port)


async def test_calls_that_wait_are_taken_together() -> None:
    """Turns of the event loop take 50 ms, as on a machine that is short of processor time: 48 calls take few turns."""
    num_calls, started_by_turn, turn = 48, list[int](), 0

    def slow_turn() -> None:
        nonlocal turn
        turn += 1
        time.sleep(0.05)
        started_by_turn.append(served_now.servicer.num_started)
        if served_now.servicer.num_started < num_calls:
            asyncio.get_running_loop().call_soon(slow_turn)

    async with served() as served_now:
        with grpc.insecure_channel(served_now.address) as channel:
            stub = pb_grpc.RecommendationServiceStub(channel)
            await asyncio.to_thread(stub.Recommend, pb.RecommendRequest())  # connects
            served_now.servicer.num_started = 0
            answers = [stub.Recommend.future(pb.RecommendRequest()) for _ in range(num_calls)]
            slow_turn()
            for answer in answers:
                await asyncio.to_thread(answer.result)
    assert turn <= 12, started_by_turn

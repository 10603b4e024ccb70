"""API keys over gRPC: every method but health needs a key, and all refusals have the same text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from inference_server.security.api_keys import ApiKeys, key_line
from inference_server.security.callers import Right
from inference_server.security.files import Security
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.api.grpc.served import served, stub_of
from tests.support.serving import PATIENCE_SECONDS

pytestmark = pytest.mark.process

KEY = "the-key-of-the-shop"
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, "missing or wrong credentials")


@pytest.fixture
def security(tmp_path: Path) -> Security:
    (tmp_path / "keys").write_text(f"{key_line('mail', 'the-key-of-the-mailer')}\n{key_line('shop', KEY)}\n")
    return Security(api_keys=ApiKeys.load(tmp_path / "keys"))


async def refusal(call: Any) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", f"Bearer {KEY}")],
        [("authorization", f"bearer {KEY}")],
        [("x-api-key", KEY)],
        [("other", "x"), ("authorization", "Basic eDp5"), ("x-api-key", KEY)],
    ],
)
async def test_a_key_lets_the_call_in_under_its_name(security: Security, metadata: list[tuple[str, str]]) -> None:
    async with served(security=security) as server, stub_of(server.address) as stub:
        response = await stub.Recommend(pb.RecommendRequest(), metadata=metadata)
        assert response.request_id == "shop"


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("x-api-key", "")],
        [("x-api-key", KEY[:-1])],
        [("authorization", KEY)],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", f"Basic {KEY}")],
        [("x-api-key-bin", KEY.encode())],
        [("authorization-bin", b"Bearer \xff")],
    ],
)
async def test_anything_else_is_unauthenticated_in_the_same_words(
    security: Security, metadata: list[tuple[str, str]]
) -> None:
    async with served(security=security) as server, stub_of(server.address) as stub:
        assert await refusal(stub.Recommend(pb.RecommendRequest(), metadata=metadata)) == REFUSED
        assert server.servicer.num_started == 0
        assert security.num_unauthenticated == 1


async def test_a_name_does_not_leak_into_another_call(security: Security) -> None:
    async with served(security=security) as server, stub_of(server.address) as stub:
        await stub.Recommend(pb.RecommendRequest(), metadata=[("x-api-key", KEY)])
        response = await stub.Recommend(pb.RecommendRequest(), metadata=[("x-api-key", "the-key-of-the-mailer")])
        assert response.request_id == "mail"
        assert await refusal(stub.Recommend(pb.RecommendRequest())) == REFUSED


async def test_a_stream_is_refused_before_its_first_message(security: Security) -> None:
    async with served(security=security) as server, stub_of(server.address) as stub:
        call = stub.RecommendBatch(timeout=PATIENCE_SECONDS)
        assert await refusal(call.read()) == REFUSED


async def test_methods_that_do_not_exist_are_refused_too(security: Security) -> None:
    async with served(security=security) as server, grpc.aio.insecure_channel(server.address) as channel:
        assert await refusal(channel.unary_unary("/no.such.Service/Method")(b"")) == REFUSED


async def test_only_health_is_open(security: Security) -> None:
    async with (
        served(security=security, reflection_enabled=True) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        response = await health.Check(health_pb2.HealthCheckRequest())
        assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()

        servers = channelz_pb2_grpc.ChannelzStub(channel).GetServers
        request = channelz_pb2.GetServersRequest()
        assert await refusal(servers(request)) == REFUSED
        assert len((await servers(request, metadata=[("x-api-key", KEY)])).server) >= 1

        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        names = reflection_pb2.ServerReflectionRequest(list_services="")
        assert await refusal(reflect(iter([names])).read()) == REFUSED
        listed = await reflect(iter([names]), metadata=[("x-api-key", KEY)]).read()
        assert "tandem.v1.RecommendationService" in {service.name for service in listed.list_services_response.service}


async def test_without_keys_everybody_may_call() -> None:
    async with served() as server, stub_of(server.address) as stub:
        response = await stub.Recommend(pb.RecommendRequest(), metadata=[("x-api-key", "whatever")])
        assert response.request_id == ""


RIGHTS_OF_METHODS = {
    "Recommend": Right.READ,
    "RecommendMany": Right.READ,
    "RecommendBatch": Right.READ,
    "SimilarItems": Right.READ,
    "RecordEvents": Right.RECORD,
    "UpsertItems": Right.CATALOGUE,
    "DeleteItems": Right.CATALOGUE,
    "GetServingStatus": Right.OPERATE,
}


async def test_every_method_needs_its_right(tmp_path: Path) -> None:
    """What the API gains later, and channelz, is for operators until somebody decides otherwise."""
    keys = {right: f"the-key-for-{right}-alone" for right in Right}
    lines = [key_line(right, key, rights=[right]) for right, key in keys.items()]
    (tmp_path / "keys").write_text("\n".join(lines))
    security = Security(api_keys=ApiKeys.load(tmp_path / "keys"))
    service = pb.DESCRIPTOR.services_by_name["RecommendationService"]
    needed = {f"/{service.full_name}/{method}": Right.OPERATE for method in service.methods_by_name}
    needed |= {f"/{service.full_name}/{method}": right for method, right in RIGHTS_OF_METHODS.items()}
    needed |= {"/grpc.channelz.v1.Channelz/GetServers": Right.OPERATE, "/no.such.Service/Method": Right.OPERATE}
    async with served(security=security) as server, grpc.aio.insecure_channel(server.address) as channel:
        for method, right in needed.items():
            for held, key in keys.items():
                call = channel.unary_unary(method)(b"", metadata=[("x-api-key", key)], timeout=PATIENCE_SECONDS)
                code = await call.code()
                if held is right:
                    assert code is not grpc.StatusCode.PERMISSION_DENIED, (method, held)
                else:
                    assert code is grpc.StatusCode.PERMISSION_DENIED, (method, held)
                    assert await call.details() == f"the key of {held} lacks the right {right}"
    assert security.num_unauthenticated == 0
    assert security.api_keys is not None
    assert security.api_keys.usage_by_caller()["read"] == (0, len(needed) - 4)

"""Calls the running server as a client. The only module of the stack that imports grpc."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import grpc
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.errors import NotReady
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

SERVICE: Final = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name
_POLL_SECONDS: Final = 0.1
_CALL_SECONDS: Final = 5.0


async def wait_until_serving(address: str, model_version: str, timeout_seconds: float) -> None:
    """Waits until the server's health is SERVING and it serves `model_version`. Raises NotReady."""
    give_up_at = time.monotonic() + timeout_seconds
    found = "nothing answers"
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 500)]) as channel:
        while time.monotonic() < give_up_at:
            try:
                health = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=SERVICE), timeout=_CALL_SECONDS
                )
                status = await pb_grpc.RecommendationServiceStub(channel).GetServingStatus(
                    pb.GetServingStatusRequest(), timeout=_CALL_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                found = f"{error.code().name}: {error.details()}"
            else:
                name = health_pb2.HealthCheckResponse.ServingStatus.Name(health.status)
                found = (
                    f"health {name}, model {status.model_version or 'none'}, refused {status.last_refusal or 'none'}"
                )
                if health.status == health_pb2.HealthCheckResponse.SERVING and status.model_version == model_version:
                    return
            await asyncio.sleep(_POLL_SECONDS)
    raise NotReady(f"{address} does not serve {model_version} after {timeout_seconds:g} s: {found}")


async def recommend(address: str, user_id: str, num_items: int) -> str:
    """One explained `Recommend` for a user, as proto3 JSON. Raises NotReady."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await pb_grpc.RecommendationServiceStub(channel).Recommend(
                pb.RecommendRequest(user_id=user_id, num_items=num_items, explain=True), timeout=_CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise NotReady(f"Recommend failed: {error.code().name}: {error.details()}") from error
    return str(MessageToJson(answer, preserving_proto_field_name=True, ensure_ascii=False))


def check_answer(answer_json: str, num_items: int) -> None:
    """Raises NotReady unless the answer has all the items, from the model, with nothing degraded.

    The JSON is parsed as its message: tools differ in whether they print `degradedReasons` or `degraded_reasons`, and
    an answer must not pass because a field name was not found.
    """
    try:
        answer = Parse(answer_json, pb.RecommendResponse())
    except ParseError as error:
        raise NotReady(f"the answer is not a RecommendResponse: {error}") from error
    if len(answer.items) != num_items:
        raise NotReady(f"the answer has {len(answer.items)} items, not {num_items}")
    if answer.degraded_reasons:
        raise NotReady(f"the answer is degraded: {', '.join(answer.degraded_reasons)}")
    # With a blend, a bundle ranks the retrieved items; without it, they stay in the order of retrieval.
    if answer.source not in (pb.RECOMMENDATION_SOURCE_RANKED, pb.RECOMMENDATION_SOURCE_RETRIEVED):
        source = pb.RecommendationSource.Name(answer.source)
        raise NotReady(f"the answer's source is {source}")

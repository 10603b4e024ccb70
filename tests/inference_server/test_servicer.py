"""The servicer in this process, for what a server process cannot be made to do: bugs, callers who go, no time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import structlog

from deploy.local.ports import free_port
from inference_server.grpc_api.server import GrpcServer
from inference_server.grpc_api.servicer import RecommendationServicer
from inference_server.policies import PolicyFile
from inference_server.recommend import Recommender
from inference_server.serving_model import ModelSlot
from inference_server.stages.admit import Admission
from inference_server.statistics import Statistics
from inference_server.store import UserStore
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc
from tests.support.serving import PATIENCE_SECONDS, valkey, wait_until


@asynccontextmanager
async def served(
    models: ModelSlot, threads: ThreadPoolExecutor, store_url: str, *, max_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator[tuple[pb_grpc.RecommendationServiceStub, Statistics, Admission]]:
    """The worker's object graph around these parts, in this process."""
    statistics = Statistics()
    admission = Admission(models, PolicyFile(None), max_concurrent_requests=10, max_seconds=max_seconds)
    store = UserStore(store_url, statistics)
    recommender = Recommender(admission=admission, store=store, threads=threads, statistics=statistics)
    servicer = RecommendationServicer(recommender, models, statistics)
    server = GrpcServer(servicer, host="127.0.0.1", port=0, reflection_enabled=False)
    await store.start()
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield pb_grpc.RecommendationServiceStub(channel), statistics, admission
    await server.stop(grace_seconds=0)
    await store.close()


async def test_a_bug_of_ours_is_internal_and_told_to_the_log_alone(models: ModelSlot) -> None:
    threads = ThreadPoolExecutor(1)
    threads.shutdown()  # so that the stage that needs a thread raises what no stage expects
    async with served(models, threads, f"redis://127.0.0.1:{free_port()}/0") as (stub, statistics, admission):
        with structlog.testing.capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Recommend(pb.RecommendRequest(recent_item_ids=["item-1"]))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        line = next(line for line in logs if line["event"] == "request_failed")
        assert caught.value.details() == f"internal error, request_id {line['request_id']}"
        assert line["exc_info"]
        assert statistics.requests_by_code == {"INTERNAL": 1}
        assert admission.in_flight == 0
        assert len((await stub.Recommend(pb.RecommendRequest())).items) == 10, "the next request is not harmed"


async def test_a_caller_who_goes_is_counted_and_gives_the_permit_back(models: ModelSlot, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        async with valkey(tmp_path) as store, served(models, threads, store.url) as (stub, statistics, admission):
            store.pause()
            call = asyncio.ensure_future(stub.Recommend(pb.RecommendRequest(user_id="u")))
            await wait_until(lambda: admission.in_flight == 1, "the request is admitted")
            call.cancel()
            await wait_until(lambda: admission.in_flight == 0, "the permit is back")
            await wait_until(lambda: statistics.requests_by_code == {"CANCELLED": 1}, "it is counted")
            store.resume()


async def test_a_deadline_too_short_for_any_answer_is_said_by_the_server(models: ModelSlot) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with ThreadPoolExecutor(1) as threads:
        async with served(models, threads, url, max_seconds=0.0005) as (stub, statistics, _):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Recommend(pb.RecommendRequest())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert statistics.requests_by_code == {"DEADLINE_EXCEEDED": 1}

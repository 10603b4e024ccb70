"""The servicer in this process, for cases that a server process cannot be made to show: bugs, callers who go, no
time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import structlog

from inference_server.model.serving_model import ModelSlot
from inference_server.request.micro_batches import MAX_IN_FLIGHT
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.in_process import in_process
from tests.inference_server.request.requests_at_stages import slow_tower
from tests.support.serving import valkey, wait_until

pytestmark = pytest.mark.process


async def test_a_bug_of_ours_is_internal_and_told_to_the_log_alone(models: ModelSlot) -> None:
    threads = ThreadPoolExecutor(1)
    threads.shutdown()  # the stage that needs a thread raises an error that no stage expects
    async with in_process(models, threads=threads, ladder=slow_tower()) as parts:
        with structlog.testing.capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
            await parts.stub.Recommend(pb.RecommendRequest(recent_item_ids=["item-1"]))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        line = next(line for line in logs if line["event"] == "request_failed")
        assert caught.value.details() == f"internal error, request_id {line['request_id']}"
        assert line["exc_info"]
        assert parts.statistics.requests_by_code == {"INTERNAL": 1}
        assert parts.admission.in_flight == 0
        response = await parts.stub.Recommend(pb.RecommendRequest())
        assert len(response.items) == 10, "the next request is not harmed"


async def test_a_caller_who_goes_is_counted_and_gives_the_permit_back(models: ModelSlot, tmp_path: Path) -> None:
    async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
        store.pause()
        call = asyncio.ensure_future(parts.stub.Recommend(pb.RecommendRequest(user_id="u")))
        await wait_until(lambda: parts.admission.in_flight == 1, "the request is admitted")
        call.cancel()
        await wait_until(lambda: parts.admission.in_flight == 0, "the permit is back")
        await wait_until(lambda: parts.statistics.requests_by_code == {"CANCELLED": 1}, "it is counted")
        store.resume()


async def test_callers_who_go_while_they_wait_are_dropped(models: ModelSlot, tmp_path: Path) -> None:
    async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
        store.pause()
        batches = parts.statistics.batch_requests
        leading = []
        for number in range(MAX_IN_FLIGHT):
            leading.append(asyncio.ensure_future(parts.stub.Recommend(pb.RecommendRequest(user_id="u"))))
            await wait_until(lambda sent=number: batches.count == sent + 1, "the batch is on its way")
        waiting = [parts.stub.Recommend(pb.RecommendRequest(user_id="v")) for _ in range(6)]
        await wait_until(lambda: parts.recommender.num_waiting == 6, "they wait")
        for call in waiting:
            call.cancel()
        await wait_until(lambda: parts.statistics.requests_by_code == {"CANCELLED": 6}, "they are known to have gone")
        assert parts.admission.in_flight == MAX_IN_FLIGHT
        store.resume()
        await asyncio.gather(*leading)
        await wait_until(lambda: parts.statistics.dropped_requests == 6, "no work is done for them")
        assert batches.total == MAX_IN_FLIGHT


async def test_a_deadline_too_short_for_any_answer_is_said_by_the_server(models: ModelSlot) -> None:
    async with in_process(models, max_seconds=0.0005) as parts:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await parts.stub.Recommend(pb.RecommendRequest())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert parts.statistics.requests_by_code == {"DEADLINE_EXCEEDED": 1}

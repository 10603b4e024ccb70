"""RecommendBatch over gRPC: one answer to every entry, errors of single entries, streams that end early, and the
precedence of Recommend."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import structlog

from inference_server.api.grpc.bulk import IN_FLIGHT, recommend_batch
from inference_server.api.grpc.decoding import Decoder
from inference_server.model.serving_model import ModelSlot
from tandem.ops.secrets import user_digest
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.in_process import Parts, in_process
from tests.inference_server.request.requests_at_stages import slow_tower
from tests.support.serving import PATIENCE_SECONDS, valkey, wait_until
from tests.support.tiny_bundle import state_of

pytestmark = pytest.mark.process

NUM_ENTRIES = 300


def entry(correlation_id: str, **fields: object) -> pb.RecommendBatchRequest:
    return pb.RecommendBatchRequest(
        correlation_id=correlation_id,
        request=pb.RecommendRequest(**fields),  # type: ignore[arg-type]
    )


async def batch_of(parts: Parts, entries: list[pb.RecommendBatchRequest]) -> list[pb.RecommendBatchResponse]:
    """All answers of a stream of these entries."""
    return [response async for response in parts.stub.RecommendBatch(iter(entries), timeout=PATIENCE_SECONDS)]


async def test_every_entry_is_answered_once_as_recommend_would(models: ModelSlot, tmp_path: Path) -> None:
    async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
        for number in range(20):
            await store.put(str(number), state_of([f"item-{number}"]))
        entries = [
            entry(f"c{number}", user_id=str(number % 20), num_items=1 + number % 7) for number in range(NUM_ENTRIES)
        ]
        responses = await batch_of(parts, entries)
        assert Counter(response.correlation_id for response in responses) == Counter(
            f"c{number}" for number in range(NUM_ENTRIES)
        )
        by_id = {response.correlation_id: response for response in responses}
        for number in range(0, NUM_ENTRIES, 17):
            alone = await parts.stub.Recommend(entries[number].request)
            got = by_id[f"c{number}"].response
            assert [item.item_id for item in got.items] == [item.item_id for item in alone.items]
            assert got.source == alone.source == pb.RECOMMENDATION_SOURCE_RETRIEVED
        assert len({response.response.request_id for response in responses}) == NUM_ENTRIES
        assert parts.admission.in_flight == 0
        assert parts.statistics.batch_requests.count < NUM_ENTRIES, "entries share batches"


async def test_an_empty_stream_ends(models: ModelSlot) -> None:
    async with in_process(models) as parts:
        assert await batch_of(parts, []) == []


async def test_a_refused_entry_says_why_and_the_stream_goes_on(models: ModelSlot) -> None:
    async with in_process(models) as parts:
        too_long = [*(f"item-{row}" for row in range(300)), ""]
        text = pb.AttributePredicate(name="", min=1.0)
        responses = await batch_of(
            parts,
            [
                entry("good 1", num_items=3),
                entry("many", num_items=501),
                entry("scenario", scenario="no such"),
                entry("page", page_token="none"),
                entry("list", filter=pb.RecommendFilter(exclude_item_ids=too_long)),
                entry("attribute", filter=pb.RecommendFilter(attributes=[text])),
                entry("x" * 257, num_items=3),
                entry("", num_items=3),
                entry("good 1", num_items=4),
            ],
        )
        errors = {
            answer.correlation_id: answer.error for answer in responses if answer.WhichOneof("outcome") == "error"
        }
        assert {name: error.field for name, error in errors.items()} == {
            "many": "num_items",
            "scenario": "scenario",
            "page": "page_token",
            "list": "filter.exclude_item_ids",
            "attribute": "filter.attributes[0].name",
            "x" * 257: "correlation_id",
        }
        assert {error.code for error in errors.values()} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
        assert all(error.field in error.message for error in errors.values())
        good = sorted(
            (answer.correlation_id, len(answer.response.items)) for answer in responses if answer.HasField("response")
        )
        assert good == [("", 3), ("good 1", 3), ("good 1", 4)]
        assert parts.admission.in_flight == 0


async def test_without_a_model_every_entry_says_so() -> None:
    async with in_process(ModelSlot()) as parts:
        responses = await batch_of(parts, [entry("a"), entry("b")])
        assert {response.error.code for response in responses} == {grpc.StatusCode.UNAVAILABLE.value[0]}
        assert {response.correlation_id for response in responses} == {"a", "b"}


async def test_a_bug_of_ours_is_one_entrys_error_and_names_no_detail(models: ModelSlot) -> None:
    threads = ThreadPoolExecutor(1)
    threads.shutdown()  # the stage that needs a thread raises an error that no stage expects
    async with in_process(models, threads=threads, ladder=slow_tower()) as parts:
        with structlog.testing.capture_logs() as logs:
            personal = entry("personal", user_id="anna@example.org", recent_item_ids=["item-1"])
            responses = await batch_of(parts, [personal, entry("popular")])
        by_id = {response.correlation_id: response for response in responses}
        assert by_id["personal"].error.code == grpc.StatusCode.INTERNAL.value[0]
        line = next(line for line in logs if line["event"] == "request_failed")
        assert by_id["personal"].error.message == f"internal error, request_id {line['request_id']}"
        assert line["exc_info"]
        assert line["user"] == user_digest("anna@example.org")
        assert "anna@example.org" not in line.values()
        assert len(by_id["popular"].response.items) == 10


class TestStreamsThatEndEarly:
    async def test_a_cancelled_stream_frees_its_permits(self, models: ModelSlot, tmp_path: Path) -> None:
        async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
            store.pause()
            call = parts.stub.RecommendBatch(iter([entry(str(number), user_id="u") for number in range(200)]))
            await wait_until(lambda: parts.admission.in_flight == 16, "its share of the permits is taken")
            call.cancel()
            await wait_until(lambda: parts.admission.in_flight == 0, "the permits are back")
            store.resume()
            await answered(parts)
            assert parts.admission.in_flight == 0

    async def test_others_take_the_turns_of_a_cancelled_stream(self, models: ModelSlot, tmp_path: Path) -> None:
        async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
            store.pause()
            entries = [entry(str(number), user_id="u") for number in range(60)]
            goes = parts.stub.RecommendBatch(iter(entries))
            await wait_until(lambda: parts.admission.in_flight == 16, "its share of the permits is taken")
            stays = asyncio.create_task(batch_of(parts, entries))
            await asyncio.sleep(0)
            goes.cancel()
            store.resume()
            assert len(await stays) == len(entries)
            await wait_until(lambda: parts.admission.in_flight == 0, "the permits are back")

    async def test_a_caller_who_does_not_read_is_held_back(self, models: ModelSlot) -> None:
        num_sent = 0

        async def entries() -> AsyncIterator[bytes]:
            nonlocal num_sent
            for number in range(10 * IN_FLIGHT):
                num_sent += 1
                yield entry(str(number)).SerializeToString()

        async with in_process(models) as parts:
            answers = recommend_batch(entries(), parts.recommender, Decoder(parts.statistics))
            assert (await anext(answers)).correlation_id
            given = parts.statistics.answers_by_source
            await wait_until(lambda: given.total() == IN_FLIGHT, "the entries that have room are answered")
            await answered(parts)
            assert num_sent <= IN_FLIGHT + 1, "the stream is not read while nobody reads its answers"
            remaining = [response async for response in answers]
            assert len(remaining) == 10 * IN_FLIGHT - 1


async def answered(parts: Parts) -> None:
    """Waits until another call is answered, so that the event loop has run."""
    response = await parts.stub.Recommend(pb.RecommendRequest(num_items=5), timeout=PATIENCE_SECONDS)
    assert len(response.items) == 5


async def test_calls_are_answered_while_a_long_stream_runs(models: ModelSlot) -> None:
    async with in_process(models) as parts:
        running = True

        async def entries() -> AsyncIterator[pb.RecommendBatchRequest]:
            number = 0
            while running:
                number += 1
                yield entry(str(number), recent_item_ids=["item-1"])
                await asyncio.sleep(0)

        got: list[str] = []

        async def read() -> None:
            async for response in parts.stub.RecommendBatch(entries(), timeout=PATIENCE_SECONDS):
                assert len(response.response.items) == 10
                got.append(response.correlation_id)

        reading = asyncio.create_task(read())
        await wait_until(lambda: len(got) > IN_FLIGHT, "the stream is under way")
        for _ in range(30):
            before = len(got)
            response = await parts.stub.Recommend(
                pb.RecommendRequest(recent_item_ids=["item-2"]), timeout=PATIENCE_SECONDS
            )
            assert len(response.items) == 10
            assert list(response.degraded_reasons) == []
        await wait_until(lambda: len(got) > before, "the stream goes on")
        running = False
        await reading
        assert len(got) == len(set(got))
        assert parts.admission.in_flight == 0


@pytest.mark.parametrize("max_concurrent_requests", [1, 2, 4])
async def test_few_permits_are_enough(models: ModelSlot, max_concurrent_requests: int) -> None:
    async with in_process(models, max_concurrent_requests=max_concurrent_requests) as parts:
        responses = await batch_of(parts, [entry(str(number)) for number in range(150)])
        assert {response.correlation_id for response in responses} == {str(number) for number in range(150)}
        assert all(len(response.response.items) == 10 for response in responses)
        assert parts.admission.in_flight == 0

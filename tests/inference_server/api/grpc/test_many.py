"""RecommendMany over gRPC: an outcome for every query, errors of single queries and of whole calls, deadlines, limits,
and calls that are cancelled."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import structlog
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from inference_server.canary.counts import ANSWERS, FAILED, CanaryCounts
from inference_server.canary.layer import CANARY, canary_layer
from inference_server.experiments.slot import ExperimentSlot
from inference_server.model.engine.towers import UserTower
from inference_server.model.serving_model import ModelSlot, ServingModel
from inference_server.request.flow.limits import MAX_ITEMS_OF_MANY, MAX_QUERIES
from inference_server.request.micro_batches import MAX_BATCH, MAX_BESIDE, MAX_IN_FLIGHT
from inference_server.security.api_keys import ApiKeys, key_line
from inference_server.security.files import Security
from tandem.ops.secrets import user_digest
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.in_process import Parts, in_process
from tests.inference_server.request.requests_at_stages import slow_tower
from tests.support.serving import PATIENCE_SECONDS, valkey, wait_until
from tests.support.tiny_bundle import state_of

pytestmark = pytest.mark.process

BULK = pb.RECOMMEND_PRIORITY_BULK
INTERACTIVE = pb.RECOMMEND_PRIORITY_INTERACTIVE
PRIORITIES = [INTERACTIVE, BULK]
SLOW_SECONDS = 1.0


def query(correlation_id: str = "", **fields: object) -> pb.RecommendBatchRequest:
    return pb.RecommendBatchRequest(
        correlation_id=correlation_id,
        request=pb.RecommendRequest(**fields),  # type: ignore[arg-type]
    )


async def many(
    parts: Parts,
    queries: list[pb.RecommendBatchRequest],
    *,
    priority: pb.RecommendPriority.ValueType = pb.RECOMMEND_PRIORITY_UNSPECIFIED,
    seconds: float = PATIENCE_SECONDS,
) -> list[pb.RecommendBatchResponse]:
    """The outcomes of a call with these queries."""
    request = pb.RecommendManyRequest(queries=queries, priority=priority)
    return list((await parts.stub.RecommendMany(request, timeout=seconds)).outcomes)


async def refused(parts: Parts, queries: list[pb.RecommendBatchRequest], **options: object) -> grpc.aio.AioRpcError:
    """The error of a call that fails as a whole."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await many(parts, queries, **options)  # type: ignore[arg-type]
    return raised.value


def field_of(error: grpc.aio.AioRpcError) -> str:
    violations = error_details_pb2.BadRequest()
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    assert status.details[0].Unpack(violations)
    return violations.field_violations[0].field


def same_but_for_the_id(response: pb.RecommendResponse) -> pb.RecommendResponse:
    """The response without its id, and with scores that do not depend on the size of the batch."""
    same = pb.RecommendResponse()
    same.CopyFrom(response)
    same.request_id = ""
    for item in same.items:
        item.score = round(item.score, 4)
        for name, part in item.reason.score_parts.items():
            item.reason.score_parts[name] = round(part, 4)
    return same


class TestOutcomes:
    @pytest.mark.parametrize("priority", PRIORITIES)
    async def test_every_query_is_answered_as_recommend_would(
        self, models: ModelSlot, tmp_path: Path, priority: pb.RecommendPriority.ValueType
    ) -> None:
        async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
            for number in range(20):
                await store.put(str(number), state_of([f"item-{number}"]))
            queries = [
                query(f"c{number}", user_id=str(number % 20), num_items=1 + number % 7, explain=number % 2 == 0)
                for number in range(MAX_QUERIES)
            ]
            outcomes = await many(parts, queries, priority=priority)
            assert [outcome.correlation_id for outcome in outcomes] == [f"c{number}" for number in range(MAX_QUERIES)]
            for number in range(0, MAX_QUERIES, 17):
                alone = await parts.stub.Recommend(queries[number].request)
                got = outcomes[number].response
                assert got.source == pb.RECOMMENDATION_SOURCE_RETRIEVED
                assert same_but_for_the_id(got) == same_but_for_the_id(alone)
            assert len({outcome.response.request_id for outcome in outcomes}) == MAX_QUERIES
            statistics = parts.statistics
            assert statistics.many_queries_by_code == {"OK": MAX_QUERIES}
            assert statistics.many_calls_by_code == {"OK": 1}
            assert statistics.answers_by_source["RETRIEVED"] == MAX_QUERIES + len(range(0, MAX_QUERIES, 17))
            assert statistics.requests_by_code == {"OK": len(range(0, MAX_QUERIES, 17))}, "single calls alone"
            assert parts.admission.in_flight == 0

    async def test_a_call_may_ask_for_a_hundred_items_for_each_of_its_queries(self, models: ModelSlot) -> None:
        async with in_process(models) as parts:
            full = [query(num_items=MAX_ITEMS_OF_MANY // MAX_QUERIES, explain=True) for _ in range(MAX_QUERIES)]
            assert all(len(outcome.response.items) == 100 for outcome in await many(parts, full))
            full[7].request.num_items += 1
            error = await refused(parts, full)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert field_of(error) == "queries"
            assert error.details() == "queries: must ask for at most 25,600 items together, ask for 25,601"
            full[7].request.num_items = 501  # refused alone, so it asks for nothing
            outcomes = await many(parts, full)
            assert [index for index, outcome in enumerate(outcomes) if outcome.HasField("error")] == [7]

    async def test_queries_without_ids_are_told_apart_by_their_order(self, models: ModelSlot) -> None:
        async with in_process(models) as parts:
            outcomes = await many(parts, [query(num_items=number) for number in range(1, 6)])
            assert [outcome.correlation_id for outcome in outcomes] == [""] * 5
            assert [len(outcome.response.items) for outcome in outcomes] == [1, 2, 3, 4, 5]

    async def test_a_refused_query_says_why_and_the_others_are_answered(self, models: ModelSlot) -> None:
        async with in_process(models) as parts:
            too_long = [*(f"item-{row}" for row in range(300)), ""]
            outcomes = await many(
                parts,
                [
                    query("good 1", num_items=3),
                    query("num", num_items=501),
                    query("scenario", scenario="no such"),
                    query("page", page_token="none"),
                    query("list", filter=pb.RecommendFilter(exclude_item_ids=too_long)),
                    query("attribute", filter=pb.RecommendFilter(attributes=[pb.AttributePredicate(min=1.0)])),
                    query("good 2", num_items=4),
                ],
            )
            errors = {outcome.correlation_id: outcome.error for outcome in outcomes if outcome.HasField("error")}
            assert {name: error.field for name, error in errors.items()} == {
                "num": "queries[1].request.num_items",
                "scenario": "queries[2].request.scenario",
                "page": "queries[3].request.page_token",
                "list": "queries[4].request.filter.exclude_item_ids",
                "attribute": "queries[5].request.filter.attributes[0].name",
            }
            assert {error.code for error in errors.values()} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
            assert errors["num"].message == "queries[1].request.num_items: must be in 0..500, is 501"
            assert [len(outcomes[index].response.items) for index in (0, 6)] == [3, 4]
            assert parts.statistics.many_queries_by_code == {"OK": 2, "INVALID_ARGUMENT": 5}
            assert parts.admission.in_flight == 0

    async def test_pages_go_on_where_the_one_before_ended(self, models: ModelSlot) -> None:
        async with in_process(models) as parts:
            [first] = await many(parts, [query(num_items=5)])
            token = first.response.next_page_token
            outcomes = await many(parts, [query(num_items=5), query(num_items=5, page_token=token)])
            pages = [[item.item_id for item in outcome.response.items] for outcome in outcomes]
            assert pages[0] == [item.item_id for item in first.response.items]
            assert set(pages[0]).isdisjoint(pages[1])
            assert len(pages[1]) == 5

    async def test_a_bug_of_ours_is_the_error_of_the_queries_that_meet_it(self, models: ModelSlot) -> None:
        threads = ThreadPoolExecutor(1)
        threads.shutdown()  # the stage that needs a thread raises an error that no stage expects
        async with in_process(models, threads=threads, ladder=slow_tower()) as parts:
            with structlog.testing.capture_logs() as logs:
                personal = query("personal", user_id="anna@example.org", recent_item_ids=["item-1"])
                outcomes = await many(parts, [personal, query("popular")])
            assert outcomes[0].error.code == grpc.StatusCode.INTERNAL.value[0]
            line = next(line for line in logs if line["event"] == "request_failed")
            assert outcomes[0].error.message == f"internal error, request_id {line['request_id']}"
            assert line["exc_info"]
            assert line["user"] == user_digest("anna@example.org")
            assert "anna@example.org" not in line.values()
            assert len(outcomes[1].response.items) == 10
            assert parts.statistics.many_queries_by_code == {"OK": 1, "INTERNAL": 1}

    async def test_a_canary_is_held_to_the_queries_that_fail(self, models: ModelSlot) -> None:
        threads = ThreadPoolExecutor(1)
        threads.shutdown()
        experiments, counts = ExperimentSlot(), CanaryCounts()
        experiments.put_on_trial(canary_layer("canary-17", model="17", percent=100.0))
        counts.watch("canary-17")
        async with in_process(
            models, threads=threads, ladder=slow_tower(), experiments=experiments, canary=counts
        ) as parts:
            personal = {"user_id": "anna@example.org", "recent_item_ids": ["item-1"]}
            outcomes = await many(
                parts, [query("failed", **personal), query("refused", num_items=-1, **personal), query("popular")]
            )
            codes = [outcome.error.code for outcome in outcomes]
            assert codes == [grpc.StatusCode.INTERNAL.value[0], grpc.StatusCode.INVALID_ARGUMENT.value[0], 0]
            with pytest.raises(grpc.aio.AioRpcError, match="INTERNAL"):
                await parts.stub.Recommend(pb.RecommendRequest(**personal), timeout=PATIENCE_SECONDS)
        counted = counts.take()
        assert counted is not None
        assert [sum(counted[CANARY][name]) for name in (ANSWERS, FAILED)] == [2, 2]


class TestOneUser:
    async def test_is_read_and_encoded_once_for_all_shelves(self, models: ModelSlot, tmp_path: Path) -> None:
        async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
            await store.put("anna", state_of(["item-3"]))
            alone = await parts.stub.Recommend(pb.RecommendRequest(user_id="anna"))
            runs = parts.statistics.user_tower_runs
            assert runs == 1, "no vector is stored"
            outcomes = await many(
                parts, [query(user_id="anna", num_items=number) for number in range(1, MAX_BESIDE + 1)]
            )
            assert parts.statistics.user_tower_runs == runs + 1
            ids = [item.item_id for item in alone.items]
            for number, outcome in enumerate(outcomes, start=1):
                assert [item.item_id for item in outcome.response.items][:10] == ids[:number]

    async def test_has_a_vector_for_each_session_context(self, models: ModelSlot, tmp_path: Path) -> None:
        async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
            await store.put("anna", state_of(["item-3"]))
            contexts: list[list[str]] = [[], ["item-5"], ["item-9"], ["item-5"], []]
            requests = [pb.RecommendRequest(user_id="anna", recent_item_ids=context) for context in contexts]
            alone = [await parts.stub.Recommend(request) for request in requests]
            runs = parts.statistics.user_tower_runs
            outcomes = await many(parts, [pb.RecommendBatchRequest(request=request) for request in requests])
            assert parts.statistics.user_tower_runs == runs + 3
            for single, outcome in zip(alone, outcomes, strict=True):
                assert [item.item_id for item in outcome.response.items] == [item.item_id for item in single.items]
                assert [item.score for item in outcome.response.items] == pytest.approx(
                    [item.score for item in single.items], abs=1e-5
                )

    async def test_has_a_filter_of_its_own_for_each_shelf(self, models: ModelSlot, tmp_path: Path) -> None:
        async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
            await store.put("anna", state_of(["item-3", "item-4"]))
            without = pb.RecommendFilter(exclude_item_ids=["item-5", "item-6"])
            requests = [
                pb.RecommendRequest(user_id="anna", num_items=100),
                pb.RecommendRequest(user_id="anna", num_items=100, exclude_seen=False),
                pb.RecommendRequest(user_id="anna", num_items=100, filter=without),
                pb.RecommendRequest(user_id="anna", num_items=100),
            ]
            alone = [await parts.stub.Recommend(request) for request in requests]
            outcomes = await many(parts, [pb.RecommendBatchRequest(request=request) for request in requests])
            shelves = [[item.item_id for item in outcome.response.items] for outcome in outcomes]
            assert shelves == [[item.item_id for item in response.items] for response in alone]
            assert [{"item-3", "item-4"} <= set(shelf) for shelf in shelves] == [False, True, False, False]
            assert {"item-5", "item-6"}.isdisjoint(shelves[2])
            assert shelves[0] == shelves[3]


class TestWholeCalls:
    @pytest.mark.parametrize("count", [0, MAX_QUERIES + 1])
    async def test_too_few_or_too_many_queries(self, models: ModelSlot, count: int) -> None:
        async with in_process(models) as parts:
            error = await refused(parts, [query(str(number)) for number in range(count)])
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert error.details() == f"queries: must have 1 to 256 entries, has {count}"
            assert field_of(error) == "queries"
            assert parts.statistics.many_calls_by_code == {"INVALID_ARGUMENT": 1}
            assert not parts.statistics.many_queries_by_code

    async def test_two_queries_of_one_id(self, models: ModelSlot) -> None:
        async with in_process(models) as parts:
            error = await refused(parts, [query("a"), query("b"), query(""), query(""), query("b")])
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert error.details() == "queries[4].correlation_id: is that of queries[1] as well"
            assert field_of(error) == "queries[4].correlation_id"

    async def test_an_id_that_is_too_long(self, models: ModelSlot) -> None:
        async with in_process(models) as parts:
            assert len(await many(parts, [query("x" * 256)])) == 1
            error = await refused(parts, [query(), query("x" * 257)])
            assert error.details() == "queries[1].correlation_id: must have at most 256 bytes of UTF-8"

    async def test_a_priority_that_does_not_exist(self, models: ModelSlot) -> None:
        async with in_process(models) as parts:
            error = await refused(parts, [query()], priority=7)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert field_of(error) == "priority"
            assert "RECOMMEND_PRIORITY_BULK" in (error.details() or "")

    @pytest.mark.parametrize("priority", PRIORITIES)
    async def test_without_a_model(self, priority: pb.RecommendPriority.ValueType) -> None:
        async with in_process(ModelSlot()) as parts:
            error = await refused(parts, [query()], priority=priority)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert parts.admission.in_flight == 0


class TestDeadlines:
    async def test_what_no_batch_answers_in_time_is_answered_from_memory(
        self, models: ModelSlot, tmp_path: Path
    ) -> None:
        async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
            await store.put("anna", state_of(["item-3"]))
            store.pause()
            outcomes = await many(parts, [query(user_id="anna"), query(), query(num_items=501)], seconds=1.0)
            store.resume()
            assert len(outcomes[0].response.items) == 10
            assert "store_timeout" in outcomes[0].response.degraded_reasons
            assert len(outcomes[1].response.items) == 10
            assert outcomes[2].error.field == "queries[2].request.num_items"
            assert parts.admission.in_flight == 0

    async def test_too_short_for_any_answer(self, models: ModelSlot) -> None:
        async with in_process(models, max_seconds=0.0001) as parts:
            error = await refused(parts, [query()])
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert parts.admission.in_flight == 0

    async def test_what_no_time_is_left_for_ends_alone(self, model: ServingModel) -> None:
        slot = ModelSlot()
        slot.current = replace(model, user_tower=SlowTower(model))
        async with in_process(slot, max_seconds=SLOW_SECONDS / 20) as parts:
            outcomes = await many(parts, [query(recent_item_ids=["item-1"]) for _ in range(MAX_QUERIES)])
            late = outcomes[MAX_IN_FLIGHT * MAX_BATCH :]
            assert {outcome.error.code for outcome in late} == {grpc.StatusCode.DEADLINE_EXCEEDED.value[0]}
            assert {outcome.error.message for outcome in late} == {
                "the time of the call ended before this query was answered"
            }
            counted = parts.statistics.many_queries_by_code
            assert counted.total() == MAX_QUERIES
            assert counted["DEADLINE_EXCEEDED"] >= len(late)
            assert parts.admission.in_flight == 0


class SlowTower(UserTower):
    """The user tower of a bundle, which keeps the event loop for longer than a whole call may take."""

    def __init__(self, model: ServingModel) -> None:
        super().__init__(model.bundle.user_tower, model.bundle.manifest.feature_schema)

    def encode(self, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        time.sleep(SLOW_SECONDS)
        return super().encode(tensors)


class TestKeys:
    async def test_hold_each_query_to_the_users_and_each_call_to_the_rate(
        self, models: ModelSlot, tmp_path: Path
    ) -> None:
        key = "the-key-of-the-shop"
        (tmp_path / "keys").write_text(key_line("shop", key, user_prefix="a-", max_rate=0.1) + "\n")
        keys = ApiKeys.load(tmp_path / "keys")
        async with in_process(models, security=Security(api_keys=keys)) as parts:
            error = await refused(parts, [query()])
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            request = pb.RecommendManyRequest(queries=[query(user_id="a-1"), query(user_id="b-1"), query()])
            metadata = (("authorization", f"Bearer {key}"),)
            outcomes = (await parts.stub.RecommendMany(request, metadata=metadata)).outcomes
            codes = [outcome.error.code for outcome in outcomes]
            assert codes == [0, grpc.StatusCode.PERMISSION_DENIED.value[0], 0]
            assert outcomes[1].error.message == "the key of shop is for users whose ids begin with 'a-'"
            with pytest.raises(grpc.aio.AioRpcError) as raised:  # three queries of one in ten seconds
                await parts.stub.RecommendMany(pb.RecommendManyRequest(queries=[query()]), metadata=metadata)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            usage = keys.check(key).usage
            assert (usage.num_calls, usage.num_refused, usage.in_flight) == (3, 2, 0)
            assert parts.statistics.many_queries_by_code == {"OK": 2, "PERMISSION_DENIED": 1}
            assert parts.admission.in_flight == 0


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_a_call_in_flight_is_answered_while_the_server_drains(
    models: ModelSlot, tmp_path: Path, priority: pb.RecommendPriority.ValueType
) -> None:
    async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
        store.pause()
        queries = [query(user_id="u") for _ in range(3 * MAX_BATCH)]
        call = parts.stub.RecommendMany(pb.RecommendManyRequest(queries=queries, priority=priority))
        await wait_until(lambda: parts.recommender.num_waiting > 0, "the queries wait for batches")
        stopping = asyncio.create_task(parts.server.stop(grace_seconds=PATIENCE_SECONDS))
        await asyncio.sleep(0)
        store.resume()
        assert [len(outcome.response.items) for outcome in (await call).outcomes] == [10] * len(queries)
        await stopping
        assert parts.admission.in_flight == 0


class TestLimits:
    async def test_a_call_takes_a_permit_for_every_few_queries(self, models: ModelSlot, tmp_path: Path) -> None:
        async with (
            valkey(tmp_path) as store,
            in_process(models, store_url=store.url, max_concurrent_requests=16) as parts,
        ):
            store.pause()
            call = parts.stub.RecommendMany(pb.RecommendManyRequest(queries=[query(user_id="u")] * 17))
            await wait_until(lambda: parts.admission.in_flight == 3, "the call has its permits")
            error = await refused(parts, [query(user_id="u") for _ in range(48)])
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error.details() == "3 requests are in flight, too many to add 48"
            status = rpc_status.from_call(error)  # type: ignore[arg-type]
            retry = error_details_pb2.RetryInfo()
            assert status is not None
            assert status.details[0].Unpack(retry)
            assert retry.retry_delay.ToNanoseconds() == 100_000_000
            store.resume()
            assert len((await call).outcomes) == 17
            assert parts.admission.in_flight == 0

    @pytest.mark.parametrize("priority", PRIORITIES)
    @pytest.mark.parametrize("max_concurrent_requests", [1, 2, 4])
    async def test_few_permits_are_enough(
        self, models: ModelSlot, max_concurrent_requests: int, priority: pb.RecommendPriority.ValueType
    ) -> None:
        async with in_process(models, max_concurrent_requests=max_concurrent_requests) as parts:
            outcomes = await many(parts, [query(str(number)) for number in range(150)], priority=priority)
            assert all(len(outcome.response.items) == 10 for outcome in outcomes)
            assert parts.admission.in_flight == 0

    async def test_calls_in_bulk_wait_for_each_other(self, models: ModelSlot) -> None:
        async with in_process(models, max_concurrent_requests=8) as parts:
            calls = [many(parts, [query() for _ in range(100)], priority=BULK) for _ in range(4)]
            for outcomes in await asyncio.gather(*calls):
                assert [len(outcome.response.items) for outcome in outcomes] == [10] * 100
            assert parts.admission.in_flight == 0


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_a_cancelled_call_lets_all_its_queries_go(
    models: ModelSlot, tmp_path: Path, priority: pb.RecommendPriority.ValueType
) -> None:
    async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
        store.pause()
        request = pb.RecommendManyRequest(queries=[query(user_id="u") for _ in range(MAX_QUERIES)], priority=priority)
        call = parts.stub.RecommendMany(request)
        await wait_until(lambda: parts.recommender.num_waiting > 0, "the queries wait for batches")
        call.cancel()
        await wait_until(lambda: parts.admission.in_flight == 0, "the permits are back")
        store.resume()
        assert len((await parts.stub.Recommend(pb.RecommendRequest(num_items=5))).items) == 5
        await wait_until(lambda: parts.recommender.num_waiting == 0, "the queries are let go")
        assert parts.statistics.dropped_requests == MAX_QUERIES - MAX_IN_FLIGHT * MAX_BATCH
        assert parts.statistics.many_calls_by_code == {"CANCELLED": 1}


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_single_calls_and_large_calls_do_not_starve_each_other(
    models: ModelSlot, priority: pb.RecommendPriority.ValueType
) -> None:
    async with in_process(models) as parts:
        num_answered = 0
        running = True

        async def large_calls() -> None:
            nonlocal num_answered
            while running:
                outcomes = await many(parts, [query(recent_item_ids=["item-1"]) for _ in range(100)], priority=priority)
                assert all(len(outcome.response.items) == 10 for outcome in outcomes)
                num_answered += 1

        calling = asyncio.create_task(large_calls())
        await wait_until(lambda: num_answered > 1, "large calls are under way")
        before = num_answered
        singles = 0
        while num_answered < before + 3:
            response = await parts.stub.Recommend(
                pb.RecommendRequest(recent_item_ids=["item-2"]), timeout=PATIENCE_SECONDS
            )
            assert list(response.degraded_reasons) == []
            singles += 1
        assert singles >= 3, "single calls are answered between the batches of a large call"
        running = False
        await calling
        assert parts.admission.in_flight == 0

"""Micro-batches: which requests share a batch, which are dropped, and that a failing request harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import structlog

from inference_server.core.answers import Answer
from inference_server.model.serving_model import ModelSlot, ServingModel, open_model
from inference_server.request.flow.types import Admitted
from inference_server.request.micro_batches import MAX_BATCH, MAX_BESIDE, MicroBatches
from inference_server.telemetry.statistics import Statistics
from tandem.contract.bundle import Bundle
from tests.inference_server.in_process import in_process
from tests.inference_server.request.requests_at_stages import admitted, query
from tests.support.serving import valkey, wait_until
from tests.support.tiny_bundle import state_of

Answerer = Callable[[list[Admitted]], Awaitable[None]]


class Gate:
    """Answers batches with their users' names, and holds them back while it is shut."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.models: list[set[int]] = []
        self.opened = asyncio.Event()
        self.opened.set()

    async def answer(self, batch: list[Admitted]) -> None:
        self.batches.append([request.query.user_id for request in batch])
        self.models.append({id(request.model) for request in batch})
        await self.opened.wait()
        if any(request.query.user_id == "fails" for request in batch):
            raise RuntimeError("a bug of ours")
        for request in batch:
            request.caller.deliver(cast(Answer, request.query.user_id))


@asynccontextmanager
async def batches(answer: Answerer) -> AsyncIterator[tuple[MicroBatches, Statistics]]:
    statistics = Statistics()
    running = MicroBatches(answer, statistics)
    try:
        yield running, statistics
    finally:
        await running.close()


async def fill_the_flights(running: MicroBatches, gate: Gate, model: ServingModel) -> list[Admitted]:
    """Starts two batches, which a shut gate holds back, so that a request that joins now waits."""
    gate.opened.clear()
    leading = []
    for number in range(2):
        leading.append(admitted(model, user_id=f"leading {number}"))
        running.join(leading[-1])
        await wait_until(lambda sent=number: len(gate.batches) == sent + 1, "the batch is on its way")
    return leading


async def test_who_waits_together_travels_together(model: ServingModel) -> None:
    gate = Gate()
    async with batches(gate.answer) as (running, statistics):
        leading = await fill_the_flights(running, gate, model)
        waiting = [admitted(model, user_id=str(number)) for number in range(MAX_BATCH + 5)]
        for request in waiting:
            running.join(request)
        assert running.num_waiting == len(waiting)
        gate.opened.set()
        answers = await asyncio.gather(*(request.caller.wait() for request in [*leading, *waiting]))
        assert answers == [request.query.user_id for request in [*leading, *waiting]]
        assert [len(batch) for batch in gate.batches] == [1, 1, MAX_BATCH, 5]
        assert gate.batches[2] == [str(number) for number in range(MAX_BATCH)]
        assert statistics.batch_requests.count == 4
        assert statistics.batch_requests.total == len(leading) + len(waiting)
        assert statistics.queue_seconds.count == len(leading) + len(waiting)
        assert running.num_waiting == 0


async def test_queries_of_a_large_call_fill_batches_where_there_are_no_singles(model: ServingModel) -> None:
    gate = Gate()
    async with batches(gate.answer) as (running, statistics):
        queries = [admitted(model, user_id=str(number)) for number in range(2 * MAX_BATCH + 3)]
        running.join_many(queries)
        answers = await asyncio.gather(*(query.caller.wait() for query in queries))  # type: ignore[union-attr]
        assert answers == [str(number) for number in range(2 * MAX_BATCH + 3)]
        assert [len(batch) for batch in gate.batches] == [MAX_BATCH, MAX_BATCH, 3]
        assert statistics.batch_requests.count == 3


async def test_singles_go_first_and_a_few_queries_beside_them(model: ServingModel) -> None:
    gate = Gate()
    async with batches(gate.answer) as (running, _):
        leading = await fill_the_flights(running, gate, model)
        queries = [admitted(model, user_id=f"query {number}") for number in range(20)]
        singles = [admitted(model, user_id=f"single {number}") for number in range(MAX_BATCH)]
        in_bulk = admitted(model, user_id="in bulk")
        running.join_bulk(in_bulk)
        running.join_many(queries)
        for single in singles:
            running.join(single)
        gate.opened.set()
        await asyncio.gather(*(request.caller.wait() for request in [*leading, *queries, *singles, in_bulk]))  # type: ignore[union-attr]
        names = [request.query.user_id for request in [*singles, *queries]]
        room = MAX_BATCH - MAX_BESIDE
        assert gate.batches[2] == [*names[:room], *names[MAX_BATCH : MAX_BATCH + MAX_BESIDE]]
        rest = names[MAX_BATCH + MAX_BESIDE :]
        assert gate.batches[3] == [*names[room:MAX_BATCH], *rest[:MAX_BESIDE]]
        assert gate.batches[4] == rest[MAX_BESIDE:]
        assert gate.batches[5] == ["in bulk"]


async def test_a_few_queries_with_less_time_do_not_wait_for_a_large_call(model: ServingModel) -> None:
    gate = Gate()
    async with batches(gate.answer) as (running, _):
        leading = await fill_the_flights(running, gate, model)
        large = [admitted(model, seconds=60.0, user_id=f"large {number}") for number in range(20)]
        few = [admitted(model, seconds=30.0, user_id=f"few {number}") for number in range(3)]
        running.join_many(large)
        running.join_many(few)
        gate.opened.set()
        await asyncio.gather(*(request.caller.wait() for request in [*leading, *large, *few]))  # type: ignore[union-attr]
        names = [request.query.user_id for request in [*few, *large]]
        assert gate.batches[2] == names[:MAX_BESIDE]
        assert [name for batch in gate.batches[2:] for name in batch] == names


async def test_is_idle_between_batches_alone(model: ServingModel) -> None:
    gate = Gate()
    async with batches(gate.answer) as (running, _):
        assert running.is_idle
        leading = await fill_the_flights(running, gate, model)
        assert (running.num_waiting, running.is_idle) == (0, False)
        gate.opened.set()
        await asyncio.gather(*(request.caller.wait() for request in leading))
        await wait_until(lambda: running.is_idle, "the batches have ended")


async def test_who_has_gone_is_dropped(model: ServingModel) -> None:
    gate = Gate()
    async with batches(gate.answer) as (running, statistics):
        await fill_the_flights(running, gate, model)
        waiting = [admitted(model, user_id=str(number)) for number in range(10)]
        tasks = []
        for request in waiting:
            running.join(request)
            tasks.append(asyncio.ensure_future(wait_for(request)))
        await asyncio.sleep(0)
        for task in tasks[:9]:
            task.cancel()
        await asyncio.gather(*tasks[:9], return_exceptions=True)
        gate.opened.set()
        assert await tasks[9] == "9"
        assert gate.batches[2] == ["9"]
        assert statistics.dropped_requests == 9


async def wait_for(request: Admitted) -> Answer | None:
    return await request.caller.wait()


async def test_a_failing_request_costs_nobody_else(model: ServingModel) -> None:
    gate = Gate()
    async with batches(gate.answer) as (running, _):
        await fill_the_flights(running, gate, model)
        waiting = [admitted(model, user_id=name) for name in ("a", "fails", "b", "c")]
        for request in waiting:
            running.join(request)
        with structlog.testing.capture_logs() as logs:
            gate.opened.set()
            results = await asyncio.gather(*(request.caller.wait() for request in waiting), return_exceptions=True)
        assert [str(result) for result in results] == ["a", "a bug of ours", "b", "c"]
        assert gate.batches[2:] == [["a", "fails", "b", "c"], ["a"], ["fails"], ["b"], ["c"]]
        assert [line["event"] for line in logs] == ["batch_failed"]


async def test_two_models_never_share_a_batch(model: ServingModel, bundle: Bundle) -> None:
    other = open_model(bundle.directory, verify_checksums=False)
    gate = Gate()
    async with batches(gate.answer) as (running, _):
        await fill_the_flights(running, gate, model)
        waiting = [admitted(chosen, user_id=str(n)) for n, chosen in enumerate([model, model, other, other, model])]
        for request in waiting:
            running.join(request)
        gate.opened.set()
        assert await asyncio.gather(*(request.caller.wait() for request in waiting)) == ["0", "1", "2", "3", "4"]
        assert gate.batches[2:] == [["0", "1"], ["2", "3"], ["4"]]
        assert all(len(models) == 1 for models in gate.models)


async def test_bulk_goes_when_nobody_else_waits(model: ServingModel) -> None:
    gate = Gate()
    async with batches(gate.answer) as (running, _):
        await fill_the_flights(running, gate, model)
        bulk = [admitted(model, user_id=f"bulk {number}") for number in range(2)]
        calls = [admitted(model, user_id=f"call {number}") for number in range(MAX_BATCH + 1)]
        for request in bulk:
            running.join_bulk(request)
        for request in calls:
            running.join(request)
        gate.opened.set()
        await asyncio.gather(*(request.caller.wait() for request in [*bulk, *calls]))
        assert [batch[0].split()[0] for batch in gate.batches[2:]] == ["call", "call", "bulk"]
        assert gate.batches[-1] == ["bulk 0", "bulk 1"]


async def test_bulk_alone_does_not_wait(model: ServingModel) -> None:
    gate = Gate()
    async with batches(gate.answer) as (running, _):
        request = admitted(model, user_id="bulk")
        running.join_bulk(request)
        assert await request.caller.wait() == "bulk"


@pytest.mark.process
class TestWithAStore:
    async def test_requests_that_come_together_share_one_mget(self, models: ModelSlot, tmp_path: Path) -> None:
        async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
            for number in range(20):
                await store.put(str(number), state_of([f"item-{number}"]))
            await parts.recommender.recommend(query(user_id="0"), None)
            async with store.client() as client:
                await client.config_resetstat()
                answers = await asyncio.gather(
                    *(parts.recommender.recommend(query(user_id=str(number)), None) for number in range(20))
                )
                commands = await client.info("commandstats")
            # One of them may be the read of the trending items, which runs beside the requests.
            assert commands["cmdstat_mget"]["calls"] <= 2
            assert "cmdstat_get" not in commands
            for number, answered in enumerate(answers):
                assert answered.source == "RETRIEVED"
                assert f"item-{number}" not in answered.item_ids

    async def test_alone_or_in_company_the_answer_is_the_same(self, models: ModelSlot, tmp_path: Path) -> None:
        async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
            for number in range(12):
                await store.put(str(number), state_of([f"item-{number}", f"item-{number + 50}"]))
            asked = [query(user_id=str(number), num_items=(1, 10, 200)[number % 3]) for number in range(12)]
            alone = [await parts.recommender.recommend(each, None) for each in asked]
            together = await asyncio.gather(*(parts.recommender.recommend(each, None) for each in asked))
            assert [answer.item_ids for answer in together] == [answer.item_ids for answer in alone]
            for answer, expected in zip(together, alone, strict=True):
                assert answer.scores == pytest.approx(expected.scores, abs=1e-6)

    async def test_a_cancelled_request_that_waits_is_dropped(self, models: ModelSlot, tmp_path: Path) -> None:
        async with valkey(tmp_path) as store, in_process(models, store_url=store.url) as parts:
            store.pause()
            leading = []
            for number in range(2):
                leading.append(asyncio.create_task(parts.recommender.recommend(query(user_id=str(number)), None)))
                await wait_until(
                    lambda sent=number: parts.statistics.batch_requests.count == sent + 1, "the batch is on its way"
                )
            waiting = [asyncio.create_task(parts.recommender.recommend(query(user_id="w"), None)) for _ in range(5)]
            await wait_until(lambda: parts.recommender.num_waiting == 5, "they wait")
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert parts.admission.in_flight == 2
            store.resume()
            await asyncio.gather(*leading)
            await wait_until(lambda: parts.statistics.dropped_requests == 5, "they are dropped")
            assert parts.statistics.batch_requests.total == 2

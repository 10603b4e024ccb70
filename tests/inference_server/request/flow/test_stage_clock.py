"""Timing of stages: each call is counted for its stage alone, once for every request of the batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from inference_server.request.flow.ladder import Ladder
from inference_server.request.flow.stage_clock import StageClock, stage
from inference_server.telemetry.statistics import Statistics

BUSY_SECONDS = 0.02


@stage("select")
def choose(seconds: float) -> str:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    return "chosen"


@stage("rank")
async def order() -> str:
    await asyncio.sleep(0)
    return "ordered"


@stage("hydrate")
async def read() -> AsyncIterator[int]:
    for number in range(2):
        await asyncio.sleep(0)
        yield number


def counts(statistics: Statistics) -> dict[str, int]:
    return {name: histogram.count for name, histogram in statistics.stage_seconds.items() if histogram.count}


async def test_stages_without_a_clock_are_not_timed() -> None:
    assert choose(0.0) == "chosen"
    assert await order() == "ordered"
    assert [number async for number in read()] == [0, 1]


async def test_every_kind_of_stage_is_counted_for_every_request_of_its_batch() -> None:
    async def batch(num_requests: int) -> tuple[Statistics, list[tuple[str, int, int]]]:
        statistics, laps = Statistics(), []
        StageClock(statistics, Ladder(), num_requests, [laps]).start()
        async for _ in read():
            choose(BUSY_SECONDS)
        await order()
        return statistics, laps

    # Two batches at once: each task has a clock of its own.
    (three, laps), (five, _) = await asyncio.gather(*(asyncio.create_task(batch(count)) for count in (3, 5)))
    assert counts(three) == {"hydrate": 6, "select": 6, "rank": 3}
    assert counts(five) == {"hydrate": 10, "select": 10, "rank": 5}
    assert three.stage_seconds["select"].total >= 6 * BUSY_SECONDS
    assert [name for name, _, _ in laps] == ["hydrate", "select", "hydrate", "select", "rank"]
    assert all(started_at <= ended_at for _, started_at, ended_at in laps)


@stage("answer", budgeted=lambda works: works)
def answer(works: bool) -> None:
    if works:
        choose(BUSY_SECONDS)


async def test_the_ladder_takes_in_the_calls_that_do_the_work_of_a_stage() -> None:
    ladder = Ladder()
    StageClock(Statistics(), ladder, 1).start()
    for _ in range(30):
        answer(True)
    learned = ladder.seconds["answer"]
    assert learned >= 0.5 * BUSY_SECONDS
    answer(False)
    assert ladder.seconds["answer"] == learned, "a call that skips its work says nothing of its cost"
    assert ladder.seconds["select"] == 0.0, "a stage that is not budgeted is not taken in"
    assert ladder.rung(0.9 * BUSY_SECONDS).name == "FROM_MEMORY", "what every answer needs does not fit"

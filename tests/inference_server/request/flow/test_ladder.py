"""The ladder: the rung for a time, and callers with little time, who get less and no error."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.model.serving_model import ModelSlot, open_model
from inference_server.request.flow.ladder import SECONDS_TO_ANSWER, Ladder, Rung
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.inference_server.in_process import in_process
from tests.support.serving import PATIENCE_SECONDS, valkey
from tests.support.tiny_bundle import state_of

RETRIEVED = pb.RECOMMENDATION_SOURCE_RETRIEVED
RANKED = pb.RECOMMENDATION_SOURCE_RANKED
CACHED = pb.RECOMMENDATION_SOURCE_CACHED
POPULAR = pb.RECOMMENDATION_SOURCE_POPULAR
HOURS = 3600.0
"""A cost that fits into no deadline."""

costs = st.floats(1e-5, 0.1)


class TestRung:
    @given(retrieve=costs, sources=costs, rank=costs, times=st.lists(st.floats(0.0, 2.0), min_size=2))
    def test_more_time_is_never_a_lower_rung(
        self, retrieve: float, sources: float, rank: float, times: list[float]
    ) -> None:
        rungs = [Ladder(retrieve=retrieve, sources=sources, rank=rank).rung(seconds) for seconds in sorted(times)]
        assert rungs == sorted(rungs, reverse=True)

    @given(retrieve=costs, sources=costs, rank=costs)
    def test_growing_time_climbs_every_rung_in_order(self, retrieve: float, sources: float, rank: float) -> None:
        starts = [0.0, *(SECONDS_TO_ANSWER + 2.0 * cost for cost in (retrieve, retrieve + sources))]
        starts.append(SECONDS_TO_ANSWER + 2.0 * (retrieve + sources + rank))
        rungs = []
        for start in starts:
            ladder = Ladder(retrieve=retrieve, sources=sources, rank=rank)
            rungs.append(ladder.rung(start + 1e-6))
        assert rungs == [Rung.FROM_MEMORY, Rung.NO_EXTRA_SOURCES, Rung.NO_RANKER, Rung.FULL]

    @pytest.mark.parametrize(
        ("slow", "skipped_at"),
        [
            ("encode_user", Rung.FROM_MEMORY),
            ("retrieve", Rung.FROM_MEMORY),
            ("sources", Rung.NO_EXTRA_SOURCES),
            ("rank", Rung.NO_RANKER),
        ],
    )
    def test_what_was_slow_once_is_tried_again_and_comes_back(self, slow: str, skipped_at: Rung) -> None:
        ladder = Ladder()
        for _ in range(100):
            ladder.observe(slow, 0.5)
        assert ladder.rung(0.05, encodes=True) is skipped_at
        for _ in range(1_000):
            rung = ladder.rung(0.05, encodes=True)
            if rung is Rung.FULL:
                return
            if rung < skipped_at:
                ladder.observe(slow, 0.0001)  # only a stage that runs is measured
        raise AssertionError(f"{slow} is skipped for ever")

    @pytest.mark.parametrize("slow", ["filter", "encode_user", "retrieve", "sources", "rank", "select", "answer"])
    def test_a_stage_that_became_slow_is_skipped_and_fast_again_used(self, slow: str) -> None:
        ladder = Ladder()
        assert ladder.rung(0.05, encodes=True) is Rung.FULL
        for _ in range(50):
            ladder.observe(slow, 0.5)
        assert ladder.rung(0.05, encodes=True) is not Rung.FULL
        for _ in range(100):
            ladder.observe(slow, 0.0001)
        assert ladder.rung(0.05, encodes=True) is Rung.FULL


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory) -> ModelSlot:
    slot = ModelSlot()
    slot.current = open_model(build(tmp_path_factory.mktemp("bundles") / "blend", content_weight=0.3).directory)
    return slot


@pytest.mark.process
class TestOverGrpc:
    @pytest.mark.parametrize(
        ("ladder", "source", "reasons"),
        [
            (Ladder(), RANKED, []),
            (Ladder(rank=HOURS), RETRIEVED, ["ranker_skipped"]),
            (Ladder(sources=HOURS), RETRIEVED, ["sources_skipped", "ranker_skipped"]),
            (Ladder(retrieve=HOURS), POPULAR, ["deadline"]),
        ],
        ids=["full", "no ranker", "no sources", "memory"],
    )
    async def test_a_rung_says_what_was_skipped(
        self, blended: ModelSlot, ladder: Ladder, source: int, reasons: list[str]
    ) -> None:
        async with in_process(blended, ladder=ladder) as parts:
            for num_items in (10, 150):
                request = pb.RecommendRequest(user_id="", recent_item_ids=["item-1", "item-2"], num_items=num_items)
                response = await parts.stub.Recommend(request)
                assert (response.source, list(response.degraded_reasons)) == (source, reasons)
                assert len(response.items) == num_items
                assert not {"item-1", "item-2"} & {item.item_id for item in response.items}

    async def test_from_memory_a_known_user_gets_the_last_list(self, blended: ModelSlot, tmp_path: Path) -> None:
        ladder = Ladder()
        async with valkey(tmp_path) as store, in_process(blended, store_url=store.url, ladder=ladder) as parts:
            await store.put("u", state_of(["item-1"]))
            before = await parts.stub.Recommend(pb.RecommendRequest(user_id="u"))
            assert before.source == RANKED
            ladder.seconds["retrieve"] = HOURS
            after = await parts.stub.Recommend(pb.RecommendRequest(user_id="u", explain=True))
            assert (after.source, list(after.degraded_reasons)) == (CACHED, ["deadline"])
            assert [item.item_id for item in after.items] == [item.item_id for item in before.items]
            assert {item.reason.source for item in after.items} == {"cached"}
            filtered = await parts.stub.Recommend(
                pb.RecommendRequest(
                    user_id="u", num_items=200, filter=pb.RecommendFilter(exclude_item_ids=[after.items[0].item_id])
                )
            )
            assert after.items[0].item_id not in [item.item_id for item in filtered.items]
            assert filtered.items[0].item_id == after.items[1].item_id
            stranger = await parts.stub.Recommend(pb.RecommendRequest(user_id="stranger"))
            assert (stranger.source, list(stranger.degraded_reasons)) == (POPULAR, ["deadline"])

    @pytest.mark.parametrize("slow", ["filter", "encode_user", "retrieve", "sources", "rank", "select", "answer"])
    async def test_a_skipped_stage_is_forgotten_slowly(self, blended: ModelSlot, slow: str) -> None:
        ladder = Ladder()
        ladder.seconds[slow] = HOURS
        async with in_process(blended, ladder=ladder) as parts:
            for _ in range(5):
                answer = await parts.stub.Recommend(pb.RecommendRequest(recent_item_ids=["item-1", "item-2"]))
                assert list(answer.degraded_reasons) != []
        # What is left out runs on less, and that must not count as its cost: it would be back, and late, in no time.
        assert ladder.seconds[slow] == pytest.approx(HOURS * 0.99**5)

    async def test_a_slow_user_tower_is_budgeted(self, tmp_path: Path) -> None:
        slow, ladder = ModelSlot(), Ladder()
        slow.current = open_model(build(tmp_path / "slow", tower_layers=60).directory)
        request = pb.RecommendRequest(recent_item_ids=["item-1", "item-2"])
        async with in_process(slow, ladder=ladder) as parts:
            for _ in range(30):
                answer = await parts.stub.Recommend(request)
                assert (answer.source, list(answer.degraded_reasons)) == (RETRIEVED, [])
            assert parts.statistics.user_tower_runs == 30
        tower_seconds = ladder.seconds["encode_user"]
        assert tower_seconds > 10 * ladder.seconds["retrieve"], "the tower takes most of the time"
        # Time for everything but the tower: the request skips it at once, and not when it is too late.
        async with in_process(slow, ladder=ladder, max_seconds=1.5 * tower_seconds + SECONDS_TO_ANSWER) as parts:
            answer = await parts.stub.Recommend(request, timeout=PATIENCE_SECONDS)
            assert (answer.source, list(answer.degraded_reasons)) == (POPULAR, ["deadline"])
            assert parts.statistics.user_tower_runs == 0
            assert ladder.seconds["encode_user"] < tower_seconds, "the cost of a skipped stage decays"

    async def test_no_time_at_all_is_an_answer_without_recent_items(self, blended: ModelSlot) -> None:
        # Less time than is reserved for an answer from memory: the last moment comes before the batch starts.
        async with in_process(blended, max_seconds=SECONDS_TO_ANSWER) as parts:
            request = pb.RecommendRequest(recent_item_ids=[f"item-{row}" for row in range(100)], num_items=100)
            response = await parts.stub.Recommend(request, timeout=PATIENCE_SECONDS)
        assert (response.source, list(response.degraded_reasons)) == (POPULAR, ["deadline"])
        assert {item.item_id for item in response.items} == {f"item-{row}" for row in range(100, 200)}

    async def test_short_deadlines_of_ours_degrade_and_never_fail(self, blended: ModelSlot) -> None:
        async with in_process(blended, max_seconds=0.004) as parts:
            requests = [pb.RecommendRequest(recent_item_ids=[f"item-{row}"]) for row in range(40)]
            responses = await asyncio.gather(
                *(parts.stub.Recommend(request, timeout=PATIENCE_SECONDS) for request in requests)
            )
        for response in responses:
            assert len(response.items) == 10
            assert response.source in {POPULAR, RETRIEVED, RANKED}
            assert response.degraded_reasons or response.source == RANKED

"""Ranking over gRPC: the blend, ONNX rankers and those that fail, and candidates of several sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference_server.core.breaker import BreakerState
from inference_server.model.serving_model import ModelSlot, ServingModel, open_model
from tandem.contract.bundle import Bundle
from tandem.contract.errors import BundleIncompatible
from tandem.contract.item_item import item_item_scores
from tandem.contract.manifest import BlendSpec
from tandem.contract.ranking import blend, content_profiles
from tandem.contract.store import TrendingItems, trending_key
from tandem.contract.vocabulary import id_keys
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.inference_server.in_process import in_process
from tests.support.serving import valkey, wait_until
from tests.support.tiny_bundle import difference_ranker, mean_vector, nan_ranker, strange_ranker, vector_ranker

pytestmark = pytest.mark.process

RANKED = pb.RECOMMENDATION_SOURCE_RANKED
RETRIEVED = pb.RECOMMENDATION_SOURCE_RETRIEVED
HISTORY = ["item-3", "item-14", "item-15"]


def slot_of(directory: Path, **spec: object) -> ModelSlot:
    slot = ModelSlot()
    slot.current = open_model(build(directory, **spec).directory)
    return slot


def model_of(slot: ModelSlot) -> ServingModel:
    assert slot.current is not None
    return slot.current


def policies(directory: Path, text: str) -> Path:
    path = directory / "policies.yaml"
    path.write_text(text)
    return path


def ids(response: pb.RecommendResponse) -> list[str]:
    return [item.item_id for item in response.items]


def scores_of(bundle: Bundle, history: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Collaborative and content scores of all items for a user with this history."""
    assert bundle.content is not None
    rows = bundle.item_vocabulary.rows(history).reshape(1, -1)
    profile = content_profiles(np.asarray(bundle.content.vectors), rows)[0]
    content = np.asarray(bundle.content.vectors).astype(np.float32) @ profile
    return bundle.item_vectors @ mean_vector(bundle, history), content


def best_first(bundle: Bundle, scores: np.ndarray, *, without: list[str]) -> list[str]:
    order = np.argsort(-scores, kind="stable")
    return [name for name in bundle.items.item_ids(order) if name not in without]


class TestBlend:
    async def test_the_order_is_that_of_the_contract(self, tmp_path: Path) -> None:
        slot = slot_of(tmp_path / "blend", content_weight=0.3)
        bundle = model_of(slot).bundle
        assert bundle.manifest.blend is not None
        collaborative, content = scores_of(bundle, HISTORY)
        blended = blend(collaborative, content, bundle.manifest.blend)
        async with in_process(slot) as parts:
            request = pb.RecommendRequest(recent_item_ids=HISTORY, num_items=200, explain=True)
            response = await parts.stub.Recommend(request)
        assert response.source == RANKED
        assert list(response.degraded_reasons) == []
        assert ids(response) == best_first(bundle, blended, without=HISTORY)
        for item in response.items:
            row = int(item.item_id.removeprefix("item-"))
            assert item.score == pytest.approx(blended[row], abs=1e-5)
            assert item.reason.score_parts["two_tower"] == pytest.approx(collaborative[row], abs=1e-5)
            assert item.reason.score_parts["content"] == pytest.approx(content[row], abs=1e-3)

    @pytest.mark.parametrize("content_weight", [None, 0.3])
    async def test_the_item_item_source_counts_and_proposes(self, tmp_path: Path, content_weight: float | None) -> None:
        slot = slot_of(tmp_path / "blend", content_weight=content_weight, item_item_weight=0.5)
        bundle = model_of(slot).bundle
        spec = bundle.manifest.blend
        assert spec is not None
        assert spec.item_item is not None
        assert bundle.item_item is not None
        content = None
        if content_weight is None:
            collaborative = bundle.item_vectors @ mean_vector(bundle, HISTORY)
        else:
            collaborative, content = scores_of(bundle, HISTORY)
        history_rows = bundle.item_vocabulary.rows(HISTORY)[None]
        source = item_item_scores(bundle.item_item, history_rows, spec.item_item.decay_events)[0]
        text = "scenarios: {few: {sources: {two_tower: 5, item_item: 20, content_neighbours: 0}}, "
        text += "by_content: {content_weight: 0.8}}\n"
        async with in_process(slot, policies_file=policies(tmp_path, text)) as parts:
            answers = {
                scenario: await parts.stub.Recommend(
                    pb.RecommendRequest(recent_item_ids=HISTORY, num_items=count, scenario=scenario, explain=True)
                )
                for scenario, count in (("", 200), ("few", 5), ("by_content", 200))
            }
        blended = blend(collaborative, content, spec, source)
        assert ids(answers[""]) == best_first(bundle, blended, without=HISTORY)
        for item in answers[""].items:
            row = int(item.item_id.removeprefix("item-"))
            assert item.reason.score_parts["item_item"] == pytest.approx(source[row], abs=1e-5)
        proposed = {item.item_id for item in answers["few"].items if item.reason.source == "item_item"}
        neighbours = bundle.item_item.rows[history_rows[0][-5:]]
        assert proposed
        assert proposed <= {f"item-{row}" for row in neighbours.ravel()}
        weight = 0.0 if content_weight is None else 0.8
        weighed = blend(collaborative, content, replace(spec, content_weight=weight), source)
        assert ids(answers["by_content"]) == best_first(bundle, weighed, without=HISTORY)

    @pytest.mark.parametrize("by_score", [False, True])
    async def test_the_sequential_source_counts_and_proposes(self, tmp_path: Path, by_score: bool) -> None:
        slot = slot_of(tmp_path / "blend", item_item_weight=0.3, sequential_weight=0.5, by_score=by_score)
        bundle = model_of(slot).bundle
        spec = bundle.manifest.blend
        assert spec is not None
        assert spec.sequential is not None
        assert bundle.item_item is not None
        assert bundle.sequential is not None
        history_rows = bundle.item_vocabulary.rows(HISTORY)[None]
        together, following = (
            item_item_scores(weights, history_rows, spec.sequential.decay_events)[0]
            for weights in (bundle.item_item, bundle.sequential)
        )
        text = "scenarios: {few: {sources: {two_tower: 5, item_item: 0, sequential: 4, content_neighbours: 0}}}\n"
        async with in_process(slot, policies_file=policies(tmp_path, text)) as parts:
            everything, few = [
                await parts.stub.Recommend(
                    pb.RecommendRequest(recent_item_ids=HISTORY, num_items=count, scenario=scenario, explain=True)
                )
                for scenario, count in (("", 200), ("few", 9))
            ]
        collaborative = bundle.item_vectors @ mean_vector(bundle, HISTORY)
        blended = blend(collaborative, None, spec, together, following)
        assert ids(everything) == best_first(bundle, blended, without=HISTORY)
        for item in everything.items:
            row = int(item.item_id.removeprefix("item-"))
            assert item.score == pytest.approx(blended[row], abs=1e-5)
            assert item.reason.score_parts["sequential"] == pytest.approx(following[row], abs=1e-5)
        proposed = {item.item_id for item in few.items if item.reason.source == "sequential"}
        if by_score:
            expected = set(best_first(bundle, following, without=HISTORY)[:4])
        else:
            expected = {f"item-{row}" for row in bundle.sequential.rows[history_rows[0]].ravel()}
        assert proposed
        assert proposed <= expected

    async def test_a_policy_may_weigh_content_otherwise_or_not_rank(self, tmp_path: Path) -> None:
        slot = slot_of(tmp_path / "blend", content_weight=0.3)
        bundle = model_of(slot).bundle
        spec = bundle.manifest.blend
        assert spec is not None
        collaborative, content = scores_of(bundle, HISTORY)
        text = "scenarios: {by_content: {content_weight: 1.0}, unranked: {ranker: none}, by_model: {ranker: onnx}}\n"
        async with in_process(slot, policies_file=policies(tmp_path, text)) as parts:
            answers = {
                scenario: await parts.stub.Recommend(
                    pb.RecommendRequest(recent_item_ids=HISTORY, num_items=200, scenario=scenario)
                )
                for scenario in ("by_content", "unranked", "by_model")
            }
        only_content = blend(collaborative, content, BlendSpec(1.0, spec.collaborative, spec.content))
        assert ids(answers["by_content"]) == best_first(bundle, only_content, without=HISTORY)
        assert answers["by_content"].source == RANKED
        for scenario in ("unranked", "by_model"):
            assert ids(answers[scenario]) == best_first(bundle, collaborative, without=HISTORY)
            assert answers[scenario].source == RETRIEVED
            assert list(answers[scenario].degraded_reasons) == []


class TestOnnxRanker:
    async def test_orders(self, tmp_path: Path) -> None:
        slot = slot_of(tmp_path / "ranker", content_weight=0.3, ranker=difference_ranker)
        bundle = model_of(slot).bundle
        collaborative, content = scores_of(bundle, HISTORY)
        async with in_process(slot) as parts:
            request = pb.RecommendRequest(recent_item_ids=HISTORY, num_items=200, explain=True)
            response = await parts.stub.Recommend(request)
        assert response.source == RANKED
        assert ids(response) == best_first(bundle, content - collaborative, without=HISTORY)
        first = response.items[0]
        assert first.reason.score_parts["ranker"] == pytest.approx(first.score)

    async def test_reads_vectors_popularity_and_index(self, tmp_path: Path) -> None:
        slot = slot_of(tmp_path / "ranker", ranker=vector_ranker)
        bundle = model_of(slot).bundle
        collaborative = bundle.item_vectors @ mean_vector(bundle, HISTORY)
        expected = bundle.items.popularity + np.arange(1, 201) + collaborative
        async with in_process(slot) as parts:
            response = await parts.stub.Recommend(pb.RecommendRequest(recent_item_ids=HISTORY, num_items=200))
        assert ids(response) == best_first(bundle, expected, without=HISTORY)

    async def test_one_that_makes_nan_degrades_and_is_not_asked_for_ever(self, tmp_path: Path) -> None:
        slot = slot_of(tmp_path / "nan", content_weight=0.3, ranker=nan_ranker)
        bundle = model_of(slot).bundle
        collaborative, _ = scores_of(bundle, HISTORY)
        async with in_process(slot) as parts:
            seen = [parts.statistics.breakers["ranker"]]
            for _ in range(4):
                response = await parts.stub.Recommend(pb.RecommendRequest(recent_item_ids=HISTORY, num_items=200))
                assert (response.source, list(response.degraded_reasons)) == (RETRIEVED, ["ranker_failed"])
                assert ids(response) == best_first(bundle, collaborative, without=HISTORY)
                seen.append(parts.statistics.breakers["ranker"])
            assert seen[0] == BreakerState.CLOSED
            assert BreakerState.OPEN in seen
            status = await parts.stub.GetServingStatus(pb.GetServingStatusRequest())
            assert status.degraded_by_reason["ranker_failed"] == 4
            assert 1 <= parts.statistics.ranker_not_finite[model_of(slot).variant] < 4  # its breaker was open meanwhile
            assert "ranker" in status.breakers

    def test_one_that_reads_what_no_bundle_makes_refuses_the_bundle(self, tmp_path: Path) -> None:
        bundle = build(tmp_path / "strange", ranker=strange_ranker)
        with pytest.raises(BundleIncompatible, match="weather"):
            open_model(bundle.directory)


class TestSources:
    async def test_content_neighbours_are_proposed(self, tmp_path: Path) -> None:
        slot = slot_of(tmp_path / "blend", content_weight=1.0)
        bundle = model_of(slot).bundle
        assert bundle.content is not None
        text = "default: {sources: {two_tower: 5, content_neighbours: 9}}\n"
        async with in_process(slot, policies_file=policies(tmp_path, text)) as parts:
            request = pb.RecommendRequest(recent_item_ids=HISTORY, num_items=5, explain=True)
            response = await parts.stub.Recommend(request)
            everything = await parts.stub.Recommend(
                pb.RecommendRequest(recent_item_ids=HISTORY, num_items=200, explain=True)
            )
        rows = bundle.item_vocabulary.rows(HISTORY)
        neighbours = {f"item-{row}" for row in np.asarray(bundle.content.neighbours)[rows, :3].reshape(-1)}
        by_source = {item.item_id: item.reason.source for item in response.items}
        proposed = {item_id for item_id, source in by_source.items() if source == "content_neighbours"}
        assert proposed
        assert proposed <= neighbours - set(HISTORY)
        assert len(ids(everything)) == len(set(ids(everything))) == 197
        assert {item.reason.source for item in everything.items} == {"two_tower"}, "the first source has it"

    async def test_all_candidates_come_once_and_belong_to_the_first_source(self, tmp_path: Path) -> None:
        slot = slot_of(tmp_path / "plain")
        bundle = model_of(slot).bundle
        popular = [f"item-{row}" for row in np.argsort(-bundle.items.popularity)[:10]]
        trending = [*popular[5:], *(f"item-{row}" for row in range(100, 105))]
        # A boost moves the items of two sources to the top, whatever their scores.
        text = (
            "default: {ranker: none, sources: {two_tower: 30, trending: 10, popular: 10}, "
            "boosts: [{attribute: wanted, any_of: ['yes'], add: 100.0}]}\n"
        )
        wanted = {*popular, *trending}
        slot = slot_of(tmp_path / "wanted", attributes=lambda row: {"wanted": "yes"} if f"item-{row}" in wanted else {})
        async with valkey(tmp_path / "valkey") as store:
            async with store.client() as client:
                value = TrendingItems(id_keys([*trending, "gone"]), np.arange(11, 0, -1, dtype=np.float32))
                await client.set(trending_key(), value.to_bytes())
            async with in_process(slot, store_url=store.url, policies_file=policies(tmp_path, text)) as parts:
                request = pb.RecommendRequest(recent_item_ids=HISTORY, num_items=30, explain=True)

                async def follows() -> bool:
                    return not (await parts.stub.Recommend(request)).degraded_reasons

                await wait_until(follows, "the trending items are known")
                response = await parts.stub.Recommend(request)
        assert len(set(ids(response))) == 30
        collaborative = bundle.item_vectors @ mean_vector(bundle, HISTORY)
        nearest = set(best_first(bundle, collaborative, without=HISTORY)[:30])
        by_source = {item.item_id: item.reason.source for item in response.items}
        assert wanted - set(HISTORY) <= by_source.keys()
        for item_id in wanted - set(HISTORY):
            first = "two_tower" if item_id in nearest else "trending" if item_id in trending else "popular"
            assert by_source[item_id] == first, item_id

    async def test_trending_items_that_cannot_be_read_are_a_reason(self, tmp_path: Path) -> None:
        text = "default: {sources: {trending: 10}}\nscenarios: {none: {sources: {trending: 0}}}\n"
        slot = slot_of(tmp_path / "plain")
        async with in_process(slot, policies_file=policies(tmp_path, text)) as parts:
            response = await parts.stub.Recommend(pb.RecommendRequest(recent_item_ids=HISTORY))
            assert (response.source, list(response.degraded_reasons)) == (RETRIEVED, ["trending_unavailable"])
            response = await parts.stub.Recommend(pb.RecommendRequest(recent_item_ids=HISTORY, scenario="none"))
            assert list(response.degraded_reasons) == []

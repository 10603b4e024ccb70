"""Recommend over the wire: a real server process, a real Valkey, one model."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tandem.contract.bundle import Bundle
from tandem.contract.store import UserVector, user_state_key, user_vector_key
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import Server, Valkey, serve, valkey
from tests.support.tiny_bundle import CATEGORIES, RARE, mean_vector, state_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

RETRIEVED = pb.RECOMMENDATION_SOURCE_RETRIEVED
POPULAR = pb.RECOMMENDATION_SOURCE_POPULAR
HISTORY = ["item-3", "item-14", "item-15"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as server:
        await server.put("state-only", state_of(HISTORY))
        await server.put("unknown-items-only", state_of(["gone-1"]))
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, store: Valkey, bundle: Bundle) -> AsyncIterator[Server]:
    async with serve(tmp_path_factory.mktemp("server"), bundle_path=bundle.directory, store_url=store.url) as running:
        yield running


def ids(response: pb.RecommendResponse) -> list[str]:
    return [item.item_id for item in response.items]


def nearest(bundle: Bundle, vector: np.ndarray, num_items: int, *, without: list[str]) -> list[str]:
    """The best items by exact search, best first, apart from `without`."""
    order = np.argsort(-(bundle.item_vectors @ vector), kind="stable")
    return [name for name in bundle.items.item_ids(order.tolist()) if name not in without][:num_items]


def most_popular(bundle: Bundle, num_items: int) -> list[str]:
    return bundle.items.item_ids(np.argsort(-bundle.items.popularity)[:num_items].tolist())


class TestPersonal:
    async def test_a_fresh_stored_vector_answers(self, server: Server, store: Valkey, bundle: Bundle) -> None:
        # A vector that the tower would never make of this state: only the stored one can have been used.
        towards = bundle.item_vectors[77]
        await store.put("fresh", state_of(HISTORY, revision=4), vectors={"tiny-1": UserVector(4, towards)})
        response = await server.recommend(user_id="fresh", num_items=5)
        assert ids(response)[0] == "item-77"
        assert response.source == RETRIEVED
        assert list(response.degraded_reasons) == []
        assert response.model_version == "tiny-1"
        assert response.variant == ""
        assert len(response.request_id) == 32

    async def test_a_stale_vector_is_computed_anew(self, server: Server, store: Valkey, bundle: Bundle) -> None:
        towards = bundle.item_vectors[77]
        await store.put("stale", state_of(HISTORY, revision=5), vectors={"tiny-1": UserVector(4, towards)})
        response = await server.recommend(user_id="stale", num_items=200)
        expected = nearest(bundle, mean_vector(bundle, HISTORY), 197, without=HISTORY)
        assert ids(response) == expected
        assert list(response.degraded_reasons) == []

    async def test_a_vector_of_another_model_is_not_used(self, server: Server, store: Valkey, bundle: Bundle) -> None:
        towards = bundle.item_vectors[77]
        await store.put("other", state_of(HISTORY, revision=4), vectors={"tiny-2": UserVector(4, towards)})
        response = await server.recommend(user_id="other", num_items=200)
        assert ids(response) == nearest(bundle, mean_vector(bundle, HISTORY), 197, without=HISTORY)

    async def test_a_missing_vector_is_computed(self, server: Server, bundle: Bundle) -> None:
        response = await server.recommend(user_id="state-only", num_items=200)
        assert ids(response) == nearest(bundle, mean_vector(bundle, HISTORY), 197, without=HISTORY)
        assert response.source == RETRIEVED
        scores = [item.score for item in response.items]
        assert scores == sorted(scores, reverse=True)

    async def test_recent_items_make_an_unknown_user_personal(self, server: Server, bundle: Bundle) -> None:
        response = await server.recommend(user_id="nobody", num_items=200, recent_item_ids=["item-9", "item-30"])
        seen = ["item-9", "item-30"]
        assert ids(response) == nearest(bundle, mean_vector(bundle, seen), 198, without=seen)
        assert response.source == RETRIEVED
        assert list(response.degraded_reasons) == []

    async def test_recent_items_make_an_anonymous_caller_personal(self, server: Server) -> None:
        response = await server.recommend(recent_item_ids=["item-9"])
        assert response.source == RETRIEVED
        assert len(response.items) == 10

    async def test_recent_items_change_a_known_users_answer(self, server: Server, bundle: Bundle) -> None:
        response = await server.recommend(user_id="state-only", num_items=200, recent_item_ids=["item-100"])
        seen = [*HISTORY, "item-100"]
        assert ids(response) == nearest(bundle, mean_vector(bundle, seen), 196, without=seen)

    async def test_seen_items_may_be_asked_for(self, server: Server, bundle: Bundle) -> None:
        response = await server.recommend(
            user_id="state-only", num_items=200, recent_item_ids=["item-100"], exclude_seen=False
        )
        assert ids(response) == nearest(bundle, mean_vector(bundle, [*HISTORY, "item-100"]), 200, without=[])

    async def test_the_same_request_has_the_same_answer(self, server: Server) -> None:
        first = await server.recommend(user_id="state-only", num_items=50)
        second = await server.recommend(user_id="state-only", num_items=50)
        assert ids(first) == ids(second)
        assert first.request_id != second.request_id


class TestPopular:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"user_id": "nobody"},
            {"user_id": "unknown-items-only"},
            {"user_id": "nobody", "recent_item_ids": ["no-such-item"]},
        ],
    )
    async def test_without_known_behaviour_the_answer_is_popular_and_not_degraded(
        self, server: Server, bundle: Bundle, fields: dict[str, object]
    ) -> None:
        response = await server.recommend(**fields)
        assert ids(response) == most_popular(bundle, 10)
        assert response.source == POPULAR
        assert list(response.degraded_reasons) == []

    async def test_more_than_the_list_holds(self, server: Server, bundle: Bundle) -> None:
        response = await server.recommend(num_items=150)
        assert ids(response) == most_popular(bundle, 150)

    async def test_more_than_there_are(self, server: Server) -> None:
        assert len((await server.recommend(num_items=500)).items) == 200


@pytest.mark.parametrize("user_id", ["state-only", "nobody"])
class TestFilters:
    async def test_included_categories(self, server: Server, bundle: Bundle, user_id: str) -> None:
        response = await server.recommend(
            user_id=user_id, num_items=500, filter=pb.RecommendFilter(include_categories=[CATEGORIES[1], RARE])
        )
        rows = bundle.item_vocabulary.rows(ids(response))
        assert all(row % 4 == 1 or row % 10 == 0 for row in rows)
        # 50 comedies and 20 rare items; no item is both, and none is seen.
        assert len(response.items) == 70

    async def test_excluded_categories(self, server: Server, bundle: Bundle, user_id: str) -> None:
        response = await server.recommend(
            user_id=user_id, num_items=500, filter=pb.RecommendFilter(exclude_categories=[*CATEGORIES[:3]])
        )
        rows = bundle.item_vocabulary.rows(ids(response))
        assert all(row % 4 == 3 for row in rows)
        assert len(response.items) == (48 if user_id == "state-only" else 50)

    async def test_excluded_items(self, server: Server, user_id: str) -> None:
        excluded = [f"item-{row}" for row in range(0, 190)]
        response = await server.recommend(
            user_id=user_id, num_items=10, filter=pb.RecommendFilter(exclude_item_ids=[*excluded, "no-such-item"])
        )
        assert sorted(ids(response)) == sorted(f"item-{row}" for row in range(190, 200))

    async def test_a_selective_filter_still_fills_the_answer(self, server: Server, user_id: str) -> None:
        response = await server.recommend(
            user_id=user_id, num_items=20, filter=pb.RecommendFilter(include_categories=[RARE])
        )
        assert sorted(ids(response)) == sorted(f"item-{row}" for row in range(0, 200, 10))

    async def test_a_filter_that_nothing_passes_gives_no_item(self, server: Server, user_id: str) -> None:
        response = await server.recommend(
            user_id=user_id, filter=pb.RecommendFilter(include_categories=["no such category"])
        )
        assert ids(response) == []


class TestExplain:
    async def test_reasons_of_a_personal_answer(self, server: Server) -> None:
        response = await server.recommend(user_id="state-only", num_items=5, explain=True)
        for item in response.items:
            assert item.reason.source == "two_tower"
            assert set(item.reason.because_item_ids) == set(HISTORY)
            assert dict(item.reason.score_parts) == {"two_tower": pytest.approx(item.score)}
            assert item.reason.title == f"Title {item.item_id}"

    async def test_reasons_of_a_popular_answer(self, server: Server) -> None:
        response = await server.recommend(num_items=1, explain=True)
        assert response.items[0].reason.source == "popular"
        assert dict(response.items[0].reason.score_parts) == {"popularity": 200.0}

    async def test_no_reasons_unless_asked_for(self, server: Server) -> None:
        response = await server.recommend(user_id="state-only")
        assert not any(item.HasField("reason") for item in response.items)


class TestErrors:
    @pytest.mark.parametrize(
        ("field", "fields"),
        [
            ("num_items", {"num_items": 501}),
            ("num_items", {"num_items": -1}),
            ("user_id", {"user_id": "x" * 257}),
            ("recent_item_ids", {"recent_item_ids": ["a"] * 1001}),
            ("recent_item_ids", {"recent_item_ids": [""]}),
            ("filter.exclude_item_ids", {"filter": pb.RecommendFilter(exclude_item_ids=["a"] * 10_001)}),
            ("filter.exclude_item_ids", {"filter": pb.RecommendFilter(exclude_item_ids=["ü" * 129])}),
            ("filter.include_categories", {"filter": pb.RecommendFilter(include_categories=["a"] * 101)}),
            ("filter.exclude_categories", {"filter": pb.RecommendFilter(exclude_categories=["x" * 257])}),
        ],
    )
    async def test_a_malformed_request_names_its_field(
        self, server: Server, field: str, fields: dict[str, object]
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.recommend(**fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = error_details_pb2.BadRequest()
        status = rpc_status.from_call(caught.value)
        assert status is not None
        assert status.details[0].Unpack(details)
        assert [violation.field for violation in details.field_violations] == [field]

    async def test_outcomes_are_counted_by_status(self, server: Server) -> None:
        await server.recommend(user_id="state-only")
        with pytest.raises(grpc.aio.AioRpcError):
            await server.recommend(num_items=501)
        text = await server.metrics()
        assert 'tandem_requests_total{code="OK"}' in text
        assert 'tandem_requests_total{code="INVALID_ARGUMENT"}' in text


class TestUnreadableValues:
    async def test_an_unreadable_state_degrades_to_popular(self, server: Server, store: Valkey, bundle: Bundle) -> None:
        async with store.client() as client:
            await client.set(user_state_key("bad-state"), b"\xffgarbage")
        response = await server.recommend(user_id="bad-state")
        assert list(response.degraded_reasons) == ["store_value_unreadable"]
        assert response.source == POPULAR
        assert ids(response) == most_popular(bundle, 10)

    async def test_an_unreadable_vector_is_computed_and_said(
        self, server: Server, store: Valkey, bundle: Bundle
    ) -> None:
        await store.put("bad-vector", state_of(HISTORY))
        async with store.client() as client:
            await client.set(user_vector_key("tiny-1", "bad-vector"), b"\x01short")
        response = await server.recommend(user_id="bad-vector", num_items=200)
        assert list(response.degraded_reasons) == ["store_value_unreadable"]
        assert ids(response) == nearest(bundle, mean_vector(bundle, HISTORY), 197, without=HISTORY)


class TestStatusAndMetrics:
    async def test_the_status_says_what_serves(self, server: Server) -> None:
        await server.recommend(user_id="state-only")
        status = await server.status()
        assert status.model_version == "tiny-1"
        assert (status.variant, status.registry_version) == ("", "")
        assert status.manifest["embedding_dim"] == 16
        assert status.manifest["metrics"]["test/ndcg@10"] == 0.5
        assert "files" not in status.manifest
        assert dict(status.dependencies) == {"store": "up", "events": "up"}
        assert status.answers_by_source["RECOMMENDATION_SOURCE_RETRIEVED"] >= 1
        assert status.uptime_seconds > 0
        assert status.started_at.seconds <= status.model_loaded_at.seconds
        assert status.bundles_refused == 0

    async def test_metrics_are_scraped(self, server: Server) -> None:
        await server.recommend(user_id="state-only")
        text = await server.metrics()
        assert 'tandem_model_info{model_version="tiny-1",registry_version="",variant=""} 1.0' in text
        assert 'tandem_stage_seconds_count{stage="retrieve"}' in text
        assert "tandem_request_seconds_bucket" in text
        assert "tandem_batch_requests_count" in text
        assert "tandem_user_tower_runs_total" in text
        assert "tandem_bundle_swaps_total 1.0" in text
        assert "process_resident_memory_bytes" in text

    async def test_the_fallback_runs_only_when_it_is_needed(self, server: Server) -> None:
        def fallbacks(text: str) -> float:
            line = next(x for x in text.splitlines() if x.startswith('tandem_stage_seconds_count{stage="fallback"}'))
            return float(line.rsplit(" ", 1)[1])

        before = fallbacks(await server.metrics())
        for _ in range(5):
            await server.recommend(user_id="state-only")
        assert fallbacks(await server.metrics()) == before
        await server.recommend(user_id="nobody")
        assert fallbacks(await server.metrics()) == before + 1

"""Retrieval and fallback, on a real model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from inference_server.core.degradation import Degraded, Source
from inference_server.model.engine.search import EXACT_MAX_ITEMS
from inference_server.model.serving_model import ServingModel, open_model
from inference_server.policy.policy import Policy
from inference_server.request.flow.engine_calls import EngineCalls
from inference_server.request.flow.ladder import Ladder, Rung
from inference_server.request.flow.recent_lists import RecentLists
from inference_server.request.flow.types import Candidates, Ranked, User
from inference_server.request.sources.registry import SOURCES
from inference_server.request.sources.two_tower import NUM_CANDIDATES
from inference_server.request.stages.fallback import fallback
from inference_server.request.stages.filter_items import filter_items
from inference_server.request.stages.retrieve import retrieve
from inference_server.store.user_store import UserStore
from inference_server.telemetry.statistics import Statistics
from tests.inference_server.conftest import build
from tests.inference_server.request.requests_at_stages import admitted, encoded_with, user_with
from tests.support.tiny_bundle import CATEGORIES, RARE, state_of

NOBODY = "redis://127.0.0.1:1/0"
"""A store that does not answer."""


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


async def candidates_of(
    users: list[User], vectors: list[np.ndarray], threads: ThreadPoolExecutor, ladder: Ladder | None = None
) -> Candidates:
    store = UserStore(NOBODY, Statistics())
    sources = [source(store) for source in SOURCES]
    encoded = encoded_with(users, vectors)
    return await retrieve(encoded, filter_items(users), sources, EngineCalls(threads, ladder or Ladder()))


def rows_of(found: Candidates | Ranked, user_index: int = 0) -> np.ndarray:
    """The candidates of one user, in the order of their columns."""
    scores = found.collaborative if isinstance(found, Candidates) else found.scores
    return found.rows[user_index][scores[user_index] > -np.inf]


def expected_mask(model: ServingModel, fields: dict[str, Any], seen_rows: list[int]) -> np.ndarray:
    """The filter once more, item by item: (items,) bool."""
    items = [model.bundle.items.item(row) for row in range(len(model.bundle.items))]
    include, exclude = set(fields["include_categories"]), set(fields["exclude_categories"])
    return np.array(
        [
            (not include or bool(set(item.categories) & include))
            and not set(item.categories) & exclude
            and item.item_id not in fields["exclude_item_ids"]
            and not (fields["exclude_seen"] and row in seen_rows)
            for row, item in enumerate(items)
        ]
    )


categories = st.lists(st.sampled_from([*CATEGORIES, RARE, "no such"]), max_size=2, unique=True).map(tuple)
item_ids = st.lists(st.integers(0, 220).map(lambda row: f"item-{row}"), max_size=30, unique=True).map(tuple)
queries = st.fixed_dictionaries(
    {
        "num_items": st.sampled_from([1, 10, 50, 500]),
        "include_categories": categories,
        "exclude_categories": categories,
        "exclude_item_ids": item_ids,
        "exclude_seen": st.booleans(),
    }
)
MODEL_IS_SHARED = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestRetrieve:
    @given(asked=queries, seen=item_ids)
    @MODEL_IS_SHARED
    async def test_what_was_asked_for_is_there_whenever_it_exists(
        self, model: ServingModel, threads: ThreadPoolExecutor, asked: dict[str, Any], seen: tuple[str, ...]
    ) -> None:
        state = state_of(list(seen))
        user = user_with(admitted(model, **asked), state)
        allowed = expected_mask(model, asked, model.known_rows(state.seen_item_keys).tolist())
        rows = rows_of(await candidates_of([user], [model.bundle.item_vectors[3]], threads))
        assert allowed[rows].all()
        assert len(set(rows.tolist())) == len(rows)
        assert len(rows) == min(max(asked["num_items"], NUM_CANDIDATES), int(allowed.sum()))

    @given(batch=st.lists(queries, min_size=2, max_size=4), popular=st.sampled_from([0, 7, 40]))
    @MODEL_IS_SHARED
    async def test_nobodys_candidates_depend_on_the_others_of_the_batch(
        self, model: ServingModel, threads: ThreadPoolExecutor, batch: list[dict[str, Any]], popular: int
    ) -> None:
        policies = [Policy(sources={"two_tower": 20, "popular": popular}), Policy(sources={"two_tower": 1})]
        users = [
            user_with(admitted(model, policy=policies[number % 2], **asked), state_of([f"item-{number}"]))
            for number, asked in enumerate(batch)
        ]
        vectors = [model.bundle.item_vectors[number] for number in range(len(users))]
        together = await candidates_of(users, vectors, threads)
        for user_index, (user, vector) in enumerate(zip(users, vectors, strict=True)):
            alone = await candidates_of([user], [vector], threads)
            assert set(rows_of(together, user_index).tolist()) == set(rows_of(alone).tolist())

    async def test_a_large_catalogue_is_searched_in_its_index_with_the_same_result(
        self, tmp_path: Path, threads: ThreadPoolExecutor
    ) -> None:
        num_items = EXACT_MAX_ITEMS + 1
        large = open_model(
            build(tmp_path / "large", num_items=num_items, dim=4, num_lists=8, nprobe=8).directory,
            verify_checksums=False,
        )
        vector = large.bundle.item_vectors[5]
        request = admitted(large, include_categories=(RARE,), policy=Policy(sources={"two_tower": 10}))
        found = await candidates_of([user_with(request)], [vector], threads)
        rare = np.arange(0, num_items, 10)
        best = rare[np.argsort(-(large.bundle.item_vectors[rare] @ vector), kind="stable")[:10]]
        assert set(rows_of(found).tolist()) == set(best.tolist())

    async def test_skipped_sources_are_a_reason_only_where_the_bundle_has_them(
        self, model: ServingModel, threads: ThreadPoolExecutor
    ) -> None:
        vector = model.bundle.item_vectors[3]
        for policy, reasons in (
            (Policy(), ()),  # content neighbours, of a bundle that has none
            (Policy(sources={"popular": 5}), (Degraded.SOURCES_SKIPPED,)),
        ):
            user = user_with(admitted(model, policy=policy), rung=Rung.NO_EXTRA_SOURCES)
            found = await candidates_of([user], [vector], threads)
            assert found.users[0].degraded_reasons == reasons
            assert [column.source for column in found.columns] == ["two_tower"]


class TestFallback:
    @given(asked=queries, seen=item_ids)
    @MODEL_IS_SHARED
    async def test_popular_items_are_the_most_popular_allowed_ones(
        self, model: ServingModel, asked: dict[str, Any], seen: tuple[str, ...]
    ) -> None:
        state = state_of(list(seen))
        users = [user_with(admitted(model, **asked), state)]
        (found,) = fallback(users, filter_items(users), RecentLists())
        allowed = expected_mask(model, asked, model.known_rows(state.seen_item_keys).tolist())
        popularity = np.where(allowed, model.bundle.items.popularity, 0)
        num_items = min(asked["num_items"], int(allowed.sum()))
        best = np.argsort(-popularity, kind="stable")[:num_items]
        assert found.rows[0].tolist() == best.tolist()
        assert found.scores[0].tolist() == popularity[best].tolist()
        assert found.source is Source.POPULAR
        assert found.is_ordered

    @given(asked=queries, kept=st.lists(st.integers(0, 199), min_size=1, max_size=30, unique=True))
    @MODEL_IS_SHARED
    async def test_a_kept_list_comes_first_filtered_and_popular_items_fill_it_up(
        self, model: ServingModel, asked: dict[str, Any], kept: list[int]
    ) -> None:
        lists = RecentLists()
        scores = np.linspace(1, 0, len(kept), dtype=np.float32)
        lists.put("u", model.version, np.array(kept), scores)
        users = [user_with(admitted(model, **asked), degraded_reasons=(Degraded.STORE_UNAVAILABLE,))]
        (found,) = fallback(users, filter_items(users), lists)
        allowed = expected_mask(model, asked, [])
        first = [row for row in kept if allowed[row]][: asked["num_items"]]
        rows = found.rows[0].tolist()
        assert rows[: len(first)] == first
        assert found.scores[0][: len(first)].tolist() == [scores[kept.index(row)] for row in first]
        assert len(rows) == min(asked["num_items"], int(allowed.sum()))
        assert allowed[rows].all()
        assert len(set(rows)) == len(rows)
        assert found.source is (Source.CACHED if first else Source.POPULAR)

    async def test_a_list_of_another_model_is_not_used_and_none_without_need(self, model: ServingModel) -> None:
        lists = RecentLists()
        lists.put("u", "another", np.array([5]), np.ones(1, dtype=np.float32))
        lists.put("v", model.version, np.array([5]), np.ones(1, dtype=np.float32))
        failed = (Degraded.STORE_UNAVAILABLE,)
        users = [
            user_with(admitted(model, user_id="u"), degraded_reasons=failed),
            user_with(admitted(model, user_id="v")),
            user_with(admitted(model, user_id="v"), degraded_reasons=failed),
        ]
        found = fallback(users, filter_items(users), lists)
        assert [ranked.source for ranked in found] == [Source.POPULAR, Source.POPULAR, Source.CACHED]

    async def test_a_policy_that_caps_categories_has_more_to_choose_from(self, model: ServingModel) -> None:
        users = [user_with(admitted(model, policy=Policy(max_per_category=2)))]
        (found,) = fallback(users, filter_items(users), RecentLists())
        assert found.rows.shape[1] > users[0].admitted.num_items


async def test_what_was_shown_is_left_out_of_both(model: ServingModel, threads: ThreadPoolExecutor) -> None:
    shown = np.arange(0, 150)
    request = dataclasses.replace(admitted(model, num_items=50), shown_rows=shown)
    users = [user_with(request)]
    expected = set(range(150, 200))
    assert set(rows_of(await candidates_of(users, [model.bundle.item_vectors[3]], threads)).tolist()) == expected
    (popular,) = fallback(users, filter_items(users), RecentLists())
    assert set(popular.rows[0].tolist()) == expected

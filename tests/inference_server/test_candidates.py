"""Retrieval, fallback, selection and answer, on a real model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from inference_server.degradation import Source
from inference_server.serving_model import ServingModel, open_model
from inference_server.query import ItemFilter, Query
from inference_server.stages.answer import answer
from inference_server.stages.candidates import Candidates
from inference_server.stages.fallback import popular_items
from inference_server.stages.retrieve import INLINE_SEARCH_MAX_ITEMS, retrieve
from inference_server.stages.select import select
from tests.inference_server.conftest import build
from tests.inference_server.requests_at_stages import encoded_with
from tests.support.tiny_bundle import CATEGORIES, RARE, state_of


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def expected_mask(model: ServingModel, asked: Query, seen_rows: list[int]) -> np.ndarray:
    """The filter once more, item by item."""
    items = [model.bundle.items.item(row) for row in range(len(model.bundle.items))]
    return np.array(
        [
            (not asked.include_categories or bool(set(item.categories) & set(asked.include_categories)))
            and not set(item.categories) & set(asked.exclude_categories)
            and item.item_id not in asked.exclude_item_ids
            and not (asked.exclude_seen and row in seen_rows)
            for row, item in enumerate(items)
        ]
    )


categories = st.lists(st.sampled_from([*CATEGORIES, RARE, "no such"]), max_size=2, unique=True).map(tuple)
item_ids = st.lists(st.integers(0, 220).map(lambda row: f"item-{row}"), max_size=30, unique=True).map(tuple)
queries = st.builds(
    Query,
    user_id=st.just("u"),
    num_items=st.sampled_from([1, 10, 50, 500]),
    include_categories=categories,
    exclude_categories=categories,
    exclude_item_ids=item_ids,
    exclude_seen=st.booleans(),
)
MODEL_IS_SHARED = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestRetrieveAndFallback:
    @given(asked=queries, seen=item_ids)
    @MODEL_IS_SHARED
    async def test_what_was_asked_for_is_returned_whenever_it_exists(
        self, model: ServingModel, threads: ThreadPoolExecutor, asked: Query, seen: tuple[str, ...]
    ) -> None:
        encoded = encoded_with(model, state_of(list(seen)), **dataclasses.asdict(asked))
        allowed = expected_mask(model, asked, encoded.seen_rows.tolist())
        for candidates in (
            await retrieve(encoded, model.bundle.item_vectors[3], threads),
            popular_items(encoded),
        ):
            rows = candidates.rows
            assert allowed[rows].all()
            assert len(set(rows.tolist())) == len(rows)
            assert len(rows) == min(asked.num_items, int(allowed.sum()))

    @given(asked=queries)
    @MODEL_IS_SHARED
    def test_popular_items_are_the_most_popular_allowed_ones(self, model: ServingModel, asked: Query) -> None:
        found = popular_items(encoded_with(model, **dataclasses.asdict(asked)))
        popularity = np.where(expected_mask(model, asked, []), model.bundle.items.popularity, 0)
        best = np.argsort(-popularity, kind="stable")[: len(found.rows)]
        assert found.rows.tolist() == best.tolist()
        assert found.scores.tolist() == popularity[best].tolist()
        assert found.source is Source.POPULAR

    async def test_a_large_catalogue_is_searched_in_a_thread_with_the_same_result(
        self, tmp_path: Path, threads: ThreadPoolExecutor
    ) -> None:
        num_items = INLINE_SEARCH_MAX_ITEMS + 1
        large = open_model(
            build(tmp_path / "large", num_items=num_items, dim=4, num_lists=8, nprobe=8).directory,
            verify_checksums=False,
        )
        vector = large.bundle.item_vectors[5]
        found = await retrieve(encoded_with(large, include_categories=(RARE,)), vector, threads)
        rare = np.arange(0, num_items, 10)
        best = rare[np.argsort(-(large.bundle.item_vectors[rare] @ vector), kind="stable")[:10]]
        assert set(found.rows.tolist()) == set(best.tolist())


class TestSelectAndAnswer:
    def candidates(self, model: ServingModel, source: Source = Source.RETRIEVED, **fields: object) -> Candidates:
        return Candidates(
            encoded=encoded_with(model, state_of(["item-20", "item-21", "item-22", "item-23", "gone"]), **fields),
            source=source,
            rows=np.array([9, 4, 7, 2]),
            scores=np.array([0.5, 0.9, 0.5, 0.5], dtype=np.float32),
        )

    def test_equal_scores_are_ordered_by_row(self, model: ServingModel) -> None:
        selection = select(self.candidates(model))
        assert selection.rows == [4, 2, 7, 9]
        assert selection.scores == pytest.approx([0.9, 0.5, 0.5, 0.5])

    def test_popular_items_keep_their_order(self, model: ServingModel) -> None:
        assert select(self.candidates(model, Source.POPULAR)).rows == [9, 4, 7, 2]

    def test_no_more_than_asked_for(self, model: ServingModel) -> None:
        assert select(self.candidates(model, num_items=2)).rows == [4, 2]

    def test_an_answer_names_items_model_and_variant(self, model: ServingModel) -> None:
        given_answer = answer(select(self.candidates(model)))
        assert given_answer.item_ids == ["item-4", "item-2", "item-7", "item-9"]
        assert given_answer.model_version == "tiny-1"
        assert given_answer.variant == "champion"
        assert given_answer.request_id == "r"
        assert given_answer.reasons is None

    def test_reasons_name_the_nearest_of_the_history(self, model: ServingModel) -> None:
        given_answer = answer(select(self.candidates(model, explain=True)))
        assert given_answer.reasons is not None
        vectors = model.bundle.item_vectors
        history = np.array([20, 21, 22, 23])
        for row, reason in zip([4, 2, 7, 9], given_answer.reasons, strict=True):
            nearest = history[np.argsort(-(vectors[history] @ vectors[row]))][:3]
            assert reason.because_item_ids == tuple(f"item-{near}" for near in nearest)
            assert reason.source == "two_tower"
            assert reason.title == f"Title item-{row}"
        assert given_answer.reasons[0].score_parts == {"two_tower": pytest.approx(0.9)}

    def test_reasons_of_popular_items_are_their_popularity(self, model: ServingModel) -> None:
        given_answer = answer(select(popular_items(encoded_with(model, explain=True))))
        assert given_answer.reasons is not None
        assert given_answer.reasons[0].source == "popular"
        assert given_answer.reasons[0].score_parts == {"popularity": 200.0}
        assert given_answer.reasons[0].because_item_ids == ()

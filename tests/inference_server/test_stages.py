"""The stages, one by one, on a real model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from inference_server.degradation import Degraded, Source
from inference_server.errors import DeadlineTooShort, InvalidRequest, NoModel, OverCapacity
from inference_server.serving_model import ModelSlot, ServingModel, open_model
from inference_server.stages.admit import Admission, Admitted, Query
from inference_server.stages.answer import answer
from inference_server.stages.candidates import Candidates
from inference_server.stages.encode_user import Encoded, encode_user
from inference_server.stages.fallback import popular_items
from inference_server.stages.hydrate import Hydrated
from inference_server.stages.retrieve import INLINE_SEARCH_MAX_ITEMS, retrieve
from inference_server.stages.select import select
from inference_server.statistics import Statistics
from tandem.contract.bundle import Bundle
from tandem.contract.store import UserState, UserVector
from tests.inference_server.conftest import build
from tests.support.tiny_bundle import CATEGORIES, RARE, mean_vector, state_of


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def query(**fields: object) -> Query:
    return Query(**{"user_id": "u", "num_items": 10, **fields})  # type: ignore[arg-type]


def admitted(model: ServingModel, *, seconds: float = 60.0, **fields: object) -> Admitted:
    asked = query(**fields)
    now = time.monotonic()
    return Admitted(
        request_id="r", query=asked, num_items=asked.num_items, model=model, admitted_at=now, deadline=now + seconds
    )


class TestAdmit:
    @pytest.mark.parametrize(
        ("field", "fields"),
        [
            ("num_items", {"num_items": -1}),
            ("num_items", {"num_items": 501}),
            ("user_id", {"user_id": "x" * 257}),
            ("user_id", {"user_id": "ü" * 129}),
            ("recent_item_ids", {"recent_item_ids": ("a", "")}),
            ("recent_item_ids", {"recent_item_ids": ("x" * 257,)}),
            ("recent_item_ids", {"recent_item_ids": ("a",) * 1001}),
            ("filter.exclude_item_ids", {"exclude_item_ids": ("a",) * 1001}),
            ("filter.exclude_item_ids", {"exclude_item_ids": ("",)}),
            ("filter.include_categories", {"include_categories": ("a",) * 101}),
            ("filter.include_categories", {"include_categories": ("",)}),
            ("filter.exclude_categories", {"exclude_categories": ("x" * 257,)}),
        ],
    )
    def test_names_the_wrong_field_and_takes_no_permit(
        self, models: ModelSlot, field: str, fields: dict[str, object]
    ) -> None:
        admission = Admission(models, max_concurrent_requests=1, max_seconds=1)
        with pytest.raises(InvalidRequest) as caught:
            admission.admit(query(**fields), None)
        assert caught.value.field == field
        assert admission.in_flight == 0

    @pytest.mark.parametrize(
        "fields",
        [
            {"num_items": 500},
            {"user_id": ""},
            {"user_id": "x" * 256},
            {"user_id": "ü" * 128},
            {"recent_item_ids": ("x" * 256,) * 1000},
            {"exclude_item_ids": ("a",) * 1000},
            {"include_categories": ("a",) * 100},
        ],
    )
    def test_takes_what_is_just_allowed(self, models: ModelSlot, fields: dict[str, object]) -> None:
        Admission(models, max_concurrent_requests=1, max_seconds=1).admit(query(**fields), None)

    def test_zero_items_are_the_default(self, models: ModelSlot) -> None:
        taken = Admission(models, max_concurrent_requests=1, max_seconds=1).admit(query(num_items=0), None)
        assert taken.num_items == 10

    @pytest.mark.parametrize(("remaining", "budget"), [(None, 0.05), (10.0, 0.05), (0.02, 0.02)])
    def test_the_deadline_is_the_callers_capped_by_ours(
        self, models: ModelSlot, remaining: float | None, budget: float
    ) -> None:
        taken = Admission(models, max_concurrent_requests=1, max_seconds=0.05).admit(query(), remaining)
        assert taken.deadline - taken.admitted_at == pytest.approx(budget)

    def test_a_deadline_too_short_for_any_answer_is_refused(self, models: ModelSlot) -> None:
        with pytest.raises(DeadlineTooShort):
            Admission(models, max_concurrent_requests=1, max_seconds=0.05).admit(query(), 0.0002)

    def test_no_model_is_said(self) -> None:
        with pytest.raises(NoModel):
            Admission(ModelSlot(), max_concurrent_requests=1, max_seconds=0.05).admit(query(), None)

    def test_permits_run_out_and_come_back(self, models: ModelSlot) -> None:
        admission = Admission(models, max_concurrent_requests=2, max_seconds=0.05)
        admission.admit(query(), None)
        admission.admit(query(), None)
        with pytest.raises(OverCapacity) as caught:
            admission.admit(query(), None)
        assert caught.value.retry_after_seconds > 0
        admission.release()
        admission.admit(query(), None)
        assert admission.in_flight == 2


class TestEncodeUser:
    async def encode(
        self, model: ServingModel, threads: ThreadPoolExecutor, *, seconds: float = 60.0, **fields: object
    ) -> tuple[Encoded, Statistics]:
        state, vector = fields.pop("state", None), fields.pop("stored_vector", None)
        statistics = Statistics()
        hydrated = Hydrated(
            admitted=admitted(model, seconds=seconds, **fields),
            state=state,  # type: ignore[arg-type]
            stored_vector=vector,  # type: ignore[arg-type]
        )
        return await encode_user(hydrated, threads, statistics), statistics

    async def test_a_fresh_stored_vector_is_used_as_it_is(
        self, model: ServingModel, threads: ThreadPoolExecutor
    ) -> None:
        stored = UserVector(7, np.arange(16, dtype=np.float32))
        state = state_of(["item-1"], revision=7)
        encoded, statistics = await self.encode(model, threads, state=state, stored_vector=stored)
        assert encoded.vector is stored.values
        assert statistics.user_tower_runs == 0

    @pytest.mark.parametrize(
        "stored",
        [
            None,
            UserVector(6, np.ones(16, dtype=np.float32)),
            UserVector(7, np.ones(15, dtype=np.float32)),
            UserVector(7, np.full(16, np.nan, dtype=np.float32)),
        ],
        ids=["missing", "stale", "another dimension", "not finite"],
    )
    async def test_else_the_tower_computes_it(
        self, model: ServingModel, threads: ThreadPoolExecutor, bundle: Bundle, stored: UserVector | None
    ) -> None:
        state = state_of(["item-1", "item-2"], revision=7)
        encoded, statistics = await self.encode(model, threads, state=state, stored_vector=stored)
        assert statistics.user_tower_runs == 1
        assert encoded.vector is not None
        np.testing.assert_allclose(encoded.vector, mean_vector(bundle, ["item-1", "item-2"]), atol=1e-6)
        assert encoded.degraded_reasons == ()

    async def test_known_recent_items_overrule_the_stored_vector(
        self, model: ServingModel, threads: ThreadPoolExecutor, bundle: Bundle
    ) -> None:
        stored = UserVector(1, np.ones(16, dtype=np.float32))
        encoded, _ = await self.encode(
            model,
            threads,
            state=state_of(["item-1"]),
            stored_vector=stored,
            recent_item_ids=("nobody knows this", "item-5"),
        )
        assert encoded.vector is not None
        np.testing.assert_allclose(encoded.vector, mean_vector(bundle, ["item-1", "item-5"]), atol=1e-6)
        assert sorted(encoded.seen_rows.tolist()) == [1, 5]

    async def test_unknown_recent_items_leave_the_stored_vector(
        self, model: ServingModel, threads: ThreadPoolExecutor
    ) -> None:
        stored = UserVector(1, np.ones(16, dtype=np.float32))
        encoded, statistics = await self.encode(
            model, threads, state=state_of(["item-1"]), stored_vector=stored, recent_item_ids=("nobody knows this",)
        )
        assert encoded.vector is stored.values
        assert statistics.user_tower_runs == 0

    @pytest.mark.parametrize("state", [None, UserState(), state_of(["gone-1", "gone-2"])])
    async def test_without_a_known_event_there_is_no_vector_and_no_reason(
        self, model: ServingModel, threads: ThreadPoolExecutor, state: UserState | None
    ) -> None:
        encoded, statistics = await self.encode(model, threads, state=state)
        assert encoded.vector is None
        assert encoded.degraded_reasons == ()
        assert statistics.user_tower_runs == 0

    async def test_too_little_time_is_a_reason(self, model: ServingModel, threads: ThreadPoolExecutor) -> None:
        encoded, statistics = await self.encode(model, threads, seconds=0.002, state=state_of(["item-1"]))
        assert encoded.vector is None
        assert encoded.degraded_reasons == (Degraded.DEADLINE,)
        assert statistics.user_tower_runs == 0

    async def test_busy_threads_are_not_waited_for_longer_than_the_deadline(self, model: ServingModel) -> None:
        import threading

        released = threading.Event()
        with ThreadPoolExecutor(1) as busy:
            busy.submit(released.wait, 60)
            encoded, _ = await self.encode(model, busy, seconds=0.1, state=state_of(["item-1"]))
            released.set()
        assert encoded.vector is None
        assert encoded.degraded_reasons == (Degraded.DEADLINE,)


def encoded_with(model: ServingModel, state: UserState | None = None, **fields: object) -> Encoded:
    state = state or UserState()
    return Encoded(
        admitted=admitted(model, **fields),
        vector=None,
        state=state,
        seen_rows=model.known_rows(state.seen_item_keys),
        degraded_reasons=(),
    )


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

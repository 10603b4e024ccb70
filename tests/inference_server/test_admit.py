"""Admission: what is refused, what is taken, and how long it may take."""

from __future__ import annotations

import pytest

from inference_server.errors import DeadlineTooShort, InvalidRequest, NoModel, OverCapacity
from inference_server.serving_model import ModelSlot
from inference_server.stages.admit import Admission
from tests.inference_server.requests_at_stages import query


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

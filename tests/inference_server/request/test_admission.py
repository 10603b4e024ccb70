"""Admission: the requests that are refused, the requests that are admitted, and their deadlines."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from inference_server.core.errors import DeadlineTooShort, InvalidRequest, NoModel, OverCapacity
from inference_server.core.query import AttributePredicate
from inference_server.experiments.experiments_file import ExperimentsFile
from inference_server.experiments.slot import ExperimentSlot
from inference_server.model.serving_model import ModelSlot
from inference_server.policy.policy_file import PolicyFile
from inference_server.request.admission import Admission
from inference_server.request.flow.types import Admitted
from inference_server.request.policy_choices import policy_choices
from tests.inference_server.request.requests_at_stages import query

NO_FILE = PolicyFile(None, policy_choices())


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
            ("filter.exclude_item_ids", {"exclude_item_ids": ("a",) * 10_001}),
            ("filter.exclude_item_ids", {"exclude_item_ids": ("a",) * 10_001, "exclude_digest": b"long"}),
            ("filter.exclude_item_ids", {"exclude_item_ids": ("",)}),
            ("filter.include_categories", {"include_categories": ("a",) * 101}),
            ("filter.include_categories", {"include_categories": ("",)}),
            ("filter.exclude_categories", {"exclude_categories": ("x" * 257,)}),
            ("filter.attributes", {"attributes": (AttributePredicate(name="a"),) * 33}),
            ("filter.attributes[1].name", {"attributes": (AttributePredicate(name="a"), AttributePredicate(name=""))}),
            ("filter.attributes[0].name", {"attributes": (AttributePredicate(name="x" * 257),)}),
            ("filter.attributes[0].any_of", {"attributes": (AttributePredicate(name="a", any_of=("b",) * 1001),)}),
            ("filter.attributes[0].none_of", {"attributes": (AttributePredicate(name="a", none_of=("",)),)}),
            ("filter.attributes[0].min", {"attributes": (AttributePredicate(name="a", min=float("nan")),)}),
            ("filter.attributes[0].max", {"attributes": (AttributePredicate(name="a", max=float("nan")),)}),
            ("diversity", {"diversity": 1.01}),
            ("diversity", {"diversity": float("nan")}),
            ("context", {"context": {str(number): "" for number in range(33)}}),
            ("context", {"context": {"x" * 257: ""}}),
            ("context", {"context": {"a": "x" * 257}}),
            ("scenario", {"scenario": "not configured"}),
            ("page_token", {"page_token": "no token"}),
        ],
    )
    async def test_names_the_wrong_field_and_takes_no_permit(
        self, models: ModelSlot, field: str, fields: dict[str, object]
    ) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=1, max_seconds=1)
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
            {"exclude_item_ids": ("a",) * 10_000},
            {"include_categories": ("a",) * 100},
            {"attributes": (AttributePredicate(name="x" * 256, any_of=("b",) * 1000, min=-math.inf),) * 32},
            {"diversity": 0.0},
            {"diversity": 1.0},
            {"context": {str(number): "x" * 256 for number in range(32)}},
        ],
    )
    async def test_takes_what_is_just_allowed(self, models: ModelSlot, fields: dict[str, object]) -> None:
        Admission(models, NO_FILE, max_concurrent_requests=1, max_seconds=1).admit(query(**fields), None)

    async def test_zero_items_are_the_default(self, models: ModelSlot) -> None:
        taken = Admission(models, NO_FILE, max_concurrent_requests=1, max_seconds=1).admit(query(num_items=0), None)
        assert taken.num_items == 10

    @pytest.mark.parametrize(("remaining", "budget"), [(None, 0.05), (10.0, 0.05), (0.02, 0.02)])
    async def test_the_deadline_is_the_callers_capped_by_ours(
        self, models: ModelSlot, remaining: float | None, budget: float
    ) -> None:
        taken = Admission(models, NO_FILE, max_concurrent_requests=1, max_seconds=0.05).admit(query(), remaining)
        assert taken.deadline - taken.admitted_at == pytest.approx(budget)

    async def test_a_deadline_too_short_for_any_answer_is_refused(self, models: ModelSlot) -> None:
        with pytest.raises(DeadlineTooShort):
            Admission(models, NO_FILE, max_concurrent_requests=1, max_seconds=0.05).admit(query(), 0.0002)

    async def test_no_model_is_said(self) -> None:
        with pytest.raises(NoModel):
            Admission(ModelSlot(), NO_FILE, max_concurrent_requests=1, max_seconds=0.05).admit(query(), None)

    async def test_permits_run_out_and_come_back(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=2, max_seconds=0.05)
        admission.admit(query(), None)
        admission.admit(query(), None)
        with pytest.raises(OverCapacity) as caught:
            admission.admit(query(), None)
        assert caught.value.retry_after_seconds > 0
        admission.release()
        admission.admit(query(), None)
        assert admission.in_flight == 2


class TestAdmitBulk:
    async def test_holds_a_quarter_of_the_permits_and_waits_for_more(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=8, max_seconds=1)
        await admission.admit_bulk(query())
        await admission.admit_bulk(query())
        third = asyncio.create_task(admission.admit_bulk(query()))
        await asyncio.sleep(0)
        assert not third.done()
        assert admission.in_flight == 2
        admission.release_bulk()
        await third
        assert admission.in_flight == 2

    async def test_leaves_half_of_the_permits_to_others(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=4, max_seconds=1)
        for _ in range(2):
            admission.admit(query(), None)
        waiting = asyncio.create_task(admission.admit_bulk(query()))
        await asyncio.sleep(0)
        assert not waiting.done()
        admission.admit(query(), None)
        admission.release()
        admission.release()
        await waiting

    async def test_an_invalid_entry_gives_its_permit_back(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=4, max_seconds=1)
        with pytest.raises(InvalidRequest):
            await admission.admit_bulk(query(num_items=501))
        assert admission.in_flight == 0

    async def test_a_turn_that_is_not_taken_is_passed_on(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=4, max_seconds=1)
        await admission.admit_bulk(query())
        goes = asyncio.create_task(admission.admit_bulk(query()))
        stays = asyncio.create_task(admission.admit_bulk(query()))
        await asyncio.sleep(0)
        admission.release_bulk()
        goes.cancel()  # it has been given its turn, but has not run since
        with pytest.raises(asyncio.CancelledError):
            await goes
        async with asyncio.timeout(60):
            await stays
        assert admission.in_flight == 1


class TestManyQueries:
    async def test_hold_half_of_the_permits_at_most(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=16, max_seconds=1)
        assert [admission.take_many(1), admission.take_many(9)] == [1, 2]
        with pytest.raises(OverCapacity) as caught:
            admission.take_many(41)
        assert caught.value.retry_after_seconds > 0
        assert admission.take_many(40) == 5
        assert admission.in_flight == 8
        for count in (1, 2, 5):
            admission.release_many(count)
        assert admission.in_flight == 0
        assert admission.take_many(256) == 8, "a large call takes all that such calls may hold"

    async def test_are_refused_where_single_calls_hold_the_permits(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=4, max_seconds=1)
        for _ in range(3):
            admission.admit(query(), None)
        with pytest.raises(OverCapacity):
            admission.take_many(16)
        assert admission.take_many(8) == 1

    async def test_have_more_time_than_one(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=4, max_seconds=0.05)
        assert admission.seconds_allowed_to_many(16, None, bulk=False) == pytest.approx(0.1)
        assert admission.seconds_allowed_to_many(256, 60.0, bulk=False) == pytest.approx(0.85)
        assert admission.seconds_allowed_to_many(256, 0.3, bulk=False) == 0.3
        assert admission.seconds_allowed_to_many(256, None, bulk=True) == pytest.approx(17.0)
        with pytest.raises(DeadlineTooShort):
            admission.seconds_allowed_to_many(256, 0.0001, bulk=False)

    async def test_in_bulk_are_not_overtaken_for_ever(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=16, max_seconds=1)
        await admission.take_bulk(1)
        large = asyncio.create_task(admission.take_bulk(32))
        await asyncio.sleep(0)
        small = asyncio.create_task(admission.take_bulk(1))
        await asyncio.sleep(0)
        assert not small.done(), "a permit is free, and the large call came before"
        admission.release_bulk()
        assert await large == 4, "all of the bulk share"
        await asyncio.sleep(0)
        assert not small.done()
        admission.release_bulk(4)
        assert await small == 1
        assert admission.in_flight == 1

    async def test_in_bulk_are_not_overtaken_by_calls_that_need_less(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=16, max_seconds=1)
        held = [await admission.take_bulk(2), await admission.take_bulk(2)]
        granted: list[int] = []

        async def take(count: int) -> None:
            granted.append(await admission.take_bulk(count))

        waiting = [asyncio.create_task(take(count)) for count in (4, 2, 2)]
        await asyncio.sleep(0)
        for count in held:
            admission.release_bulk(count)  # two permits at once, which would do for the second of those who wait
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert granted == [4]
        admission.release_bulk(4)
        await asyncio.gather(*waiting)
        assert granted == [4, 2, 2]
        assert admission.in_flight == 4

    async def test_in_bulk_that_need_none_leave_their_turn_to_others(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=16, max_seconds=1)
        for _ in range(4):
            await admission.take_bulk(1)
        waiting = [asyncio.create_task(admission.take_bulk(count)) for count in (0, 1)]
        await asyncio.sleep(0)
        admission.release_bulk()
        async with asyncio.timeout(60):
            assert await asyncio.gather(*waiting) == [0, 1]

    async def test_in_bulk_that_go_while_they_wait_make_room_for_those_behind(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=16, max_seconds=1)
        await admission.take_bulk(1)
        goes, stays = (asyncio.create_task(admission.take_bulk(count)) for count in (4, 1))
        await asyncio.sleep(0)
        goes.cancel()
        async with asyncio.timeout(60):
            assert await stays == 1
        assert admission.in_flight == 2

    async def test_in_bulk_that_gave_up_hold_nobody_back(self, models: ModelSlot) -> None:
        admission = Admission(models, NO_FILE, max_concurrent_requests=16, max_seconds=1)
        await admission.take_bulk(1)
        goes = asyncio.create_task(admission.take_bulk(4))
        await asyncio.sleep(0)
        goes.cancel()
        await asyncio.gather(goes, return_exceptions=True)
        async with asyncio.timeout(60):
            assert await admission.take_bulk(3) == 3


EXPERIMENTS = """
features:
  - name: layout
    strategies:
      - {parameters: {rollout: 100}, variants: [{name: b, payload: {type: json, value: {experiment: layout}}}]}
  - name: ranker
    strategies:
      - parameters: {rollout: 100}
        variants: [{name: t, payload: {type: json, value: {experiment: ranker, model: challenger, scenario: calm}}}]
"""


@pytest.mark.parametrize("exposed", [True, False])
def test_an_arm_without_its_model_changes_nothing_and_other_layers_go_on(
    models: ModelSlot, tmp_path: Path, *, exposed: bool
) -> None:
    assert models.current is not None
    models.further = {"challenger": models.current} if exposed else {}
    (policies := tmp_path / "policies.yaml").write_text("scenarios: {calm: {diversity: 0.5}}")
    (file := tmp_path / "experiments.yaml").write_text(EXPERIMENTS)
    experiments = ExperimentSlot()
    experiments.current = ExperimentsFile(file).table()
    admission = Admission(
        models,
        PolicyFile(policies, policy_choices()),
        max_concurrent_requests=1,
        max_seconds=1,
        experiments=experiments,
    )
    admitted = asyncio.run(_admitted(admission))
    assert [(arm.experiment, arm.exposed) for arm in admitted.assignments] == [("layout", True), ("ranker", exposed)]
    assert admitted.policy.diversity == (0.5 if exposed else 0.0)
    assert admitted.arm_unavailable is not exposed


async def _admitted(admission: Admission) -> Admitted:
    return admission.admit(query(user_id="u"), None)

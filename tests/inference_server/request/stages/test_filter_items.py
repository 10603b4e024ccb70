"""Attribute filters and long exclude lists over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from inference_server.model.serving_model import ModelSlot, open_model
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.inference_server.in_process import Parts, in_process
from tests.inference_server.wire_errors import refused_field

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]


def attributes(row: int) -> dict[str, str]:
    values = {"colour": ("red", "green", "blue")[row % 3]}
    if row % 2:
        values["price"] = str(row)
    return values


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def parts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Parts]:
    slot = ModelSlot()
    slot.current = open_model(build(tmp_path_factory.mktemp("bundles") / "a", attributes=attributes).directory)
    async with in_process(slot) as running:
        yield running


def predicate(name: str, **conditions: object) -> pb.AttributePredicate:
    return pb.AttributePredicate(name=name, **conditions)  # type: ignore[arg-type]


PREDICATES: list[tuple[list[pb.AttributePredicate], Callable[[int], bool]]] = [
    ([predicate("colour", any_of=["red", "blue"])], lambda row: row % 3 != 1),
    ([predicate("colour", none_of=["red"])], lambda row: row % 3 != 0),
    ([predicate("price", min=50.0)], lambda row: row % 2 == 1 and row >= 50),
    ([predicate("price", max=49.5)], lambda row: row % 2 == 1 and row < 50),
    ([predicate("price", min=10.0, max=20.0, none_of=["15"])], lambda row: row in {11, 13, 17, 19}),
    ([predicate("price", none_of=["15"])], lambda row: row != 15),
    ([predicate("price", any_of=["15", "16"])], lambda row: row == 15),
    ([predicate("price", min=0.0), predicate("colour", any_of=["green"])], lambda row: row % 2 == 1 and row % 3 == 1),
    ([predicate("no such", none_of=["x"])], lambda row: True),  # noqa: ARG005
    ([predicate("no such", any_of=["x"])], lambda row: False),  # noqa: ARG005
    ([predicate("no such", min=1.0)], lambda row: False),  # noqa: ARG005
    ([predicate("price")], lambda row: True),  # noqa: ARG005
]


@pytest.mark.parametrize("recent", [[], ["item-4"]], ids=["popular", "personal"])
@pytest.mark.parametrize(("predicates", "meets"), PREDICATES, ids=[str(index) for index in range(len(PREDICATES))])
async def test_only_items_that_meet_every_predicate(
    parts: Parts, recent: list[str], predicates: list[pb.AttributePredicate], meets: Callable[[int], bool]
) -> None:
    response = await parts.stub.Recommend(
        pb.RecommendRequest(
            recent_item_ids=recent, num_items=500, filter=pb.RecommendFilter(attributes=predicates), exclude_seen=False
        )
    )
    assert {item.item_id for item in response.items} == {f"item-{row}" for row in range(200) if meets(row)}


@pytest.mark.parametrize(
    ("field", "predicates"),
    [
        ("filter.attributes[0].min", [predicate("colour", min=1.0)]),
        ("filter.attributes[0].max", [predicate("colour", max=1.0)]),
        ("filter.attributes[1].min", [predicate("price", min=1.0), predicate("colour", min=1.0, max=2.0)]),
        ("filter.attributes[0].min", [predicate("price", min=float("nan"))]),
        ("filter.attributes[0].name", [predicate("")]),
        ("filter.attributes[1].any_of", [predicate("price"), predicate("price", any_of=[""])]),
        ("filter.attributes", [predicate("price")] * 33),
    ],
)
async def test_a_predicate_that_cannot_be_names_its_field(
    parts: Parts, field: str, predicates: list[pb.AttributePredicate]
) -> None:
    wire = pb.RecommendFilter(attributes=predicates)
    assert await refused_field(parts.stub.Recommend(pb.RecommendRequest(filter=wire))) == field
    similar = pb.SimilarItemsRequest(item_ids=["item-1"], filter=wire)
    assert await refused_field(parts.stub.SimilarItems(similar)) == field
    assert parts.admission.in_flight == 0


async def test_a_policys_bound_on_a_text_is_not_the_callers_mistake(parts: Parts, tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(
        "default: {boosts: [{attribute: colour, min: 1, add: 9.0}]}\n"
        "scenarios: {strict: {attributes: [{name: colour, min: 1}]}}\n"
    )
    async with in_process(parts.models, policies_file=path) as with_policy:
        response = await with_policy.stub.Recommend(pb.RecommendRequest(recent_item_ids=["item-1"]))
        assert len(response.items) == 10
        response = await with_policy.stub.Recommend(pb.RecommendRequest(recent_item_ids=["item-1"], scenario="strict"))
        assert len(response.items) == 0


class TestLongLists:
    @pytest.mark.parametrize("recent", [[], ["item-4"]], ids=["popular", "personal"])
    async def test_the_longest_list_is_applied_fresh_and_repeated(self, parts: Parts, recent: list[str]) -> None:
        for round_number in range(2):  # each with a list of its own
            kept = {f"item-{row}" for row in range(round_number, 200, 20)}
            excluded = [f"item-{row}" for row in range(200) if f"item-{row}" not in kept]
            excluded += [f"unknown-{number}" for number in range(10_000 - len(excluded))]
            wire = pb.RecommendFilter(exclude_item_ids=excluded)
            for _ in range(3):
                response = await parts.stub.Recommend(
                    pb.RecommendRequest(recent_item_ids=recent, num_items=50, filter=wire)
                )
                assert {item.item_id for item in response.items} == kept

    async def test_one_list_under_two_filters(self, parts: Parts) -> None:
        excluded = [f"item-{row}" for row in range(100)] + [f"unknown-{number}" for number in range(300)]
        for include in ([], ["drama"], ["comedy"]):
            wire = pb.RecommendFilter(exclude_item_ids=excluded, include_categories=include)
            response = await parts.stub.Recommend(pb.RecommendRequest(num_items=200, filter=wire))
            rows = range(100, 200) if not include else range(100 if include == ["drama"] else 101, 200, 4)
            assert {item.item_id for item in response.items} == {f"item-{row}" for row in rows}

    @pytest.mark.parametrize("bad", ["", "x" * 257])
    async def test_every_entry_is_looked_at(self, parts: Parts, bad: str) -> None:
        wire = pb.RecommendFilter(exclude_item_ids=[*(f"item-{row}" for row in range(5_000)), bad])
        assert await refused_field(parts.stub.Recommend(pb.RecommendRequest(filter=wire))) == "filter.exclude_item_ids"
        similar = pb.SimilarItemsRequest(item_ids=["item-1"], filter=wire)
        assert await refused_field(parts.stub.SimilarItems(similar)) == "filter.exclude_item_ids"

    async def test_one_too_many_is_refused(self, parts: Parts) -> None:
        wire = pb.RecommendFilter(exclude_item_ids=["a"] * 10_001)
        assert await refused_field(parts.stub.Recommend(pb.RecommendRequest(filter=wire))) == "filter.exclude_item_ids"

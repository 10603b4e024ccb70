"""Warnings about requests that are no error and most likely not what was meant, over gRPC, with a real bundle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog

from inference_server.core.request_warnings import WarningKind
from inference_server.model.serving_model import ModelSlot, open_model
from inference_server.policy.policy_file import PolicyFile, load_policies
from inference_server.request.policy_check import follow_policies, policy_problems
from inference_server.request.policy_choices import policy_choices
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.inference_server.in_process import Parts, in_process
from tests.inference_server.live.scenarios import changed_model, random_changes
from tests.inference_server.wire_errors import refused_field
from tests.support.serving import PATIENCE_SECONDS, wait_until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

POLICIES = """
default:
  boosts: [{category: Drama, add: 1}, {category: comedy, add: 1}]
  category_caps: {rare: 1, opera: 2}
scenarios:
  westerns: {include_categories: [western], exclude_categories: [noir]}
  misspelt: {include_categories: [Western], attributes: [{name: year, min: 1}]}
"""


def attributes_of(row: int) -> dict[str, str]:
    return {"release_year": str(1990 + row % 10), "Country": ("France", "Italy")[row % 2]}


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["bundle", "live catalogue"])
async def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Parts]:
    folder = tmp_path_factory.mktemp("warnings")
    model = open_model(build(folder / "bundle", attributes=attributes_of).directory)
    slot = ModelSlot()
    slot.current = model if request.param == "bundle" else changed_model(model, *random_changes(3, 120, 200, 16))
    (folder / "policies.yaml").write_text(POLICIES)
    async with in_process(slot, policies_file=folder / "policies.yaml") as running:
        yield running


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"include_categories": ["drama"], "exclude_categories": ["rare"]}, []),
    ({"attributes": [{"name": "release_year", "min": 1991, "max": 1997}]}, []),
    ({"attributes": [{"name": "Country", "any_of": ["France"], "none_of": ["Italy"]}]}, []),
    (
        {"include_categories": ["Comedy", "drama"]},
        ["filter.include_categories[0]: no item has the category 'Comedy'; did you mean 'comedy'?"],
    ),
    (
        {"include_categories": ["drama"], "exclude_categories": ["rare", "westren"]},
        ["filter.exclude_categories[1]: no item has the category 'westren'; did you mean 'western'?"],
    ),
    (
        {"include_categories": ["opera houses"]},
        ["filter.include_categories[0]: no item has the category 'opera houses'", "filter: no item passes it"],
    ),
    (
        {"attributes": [{"name": "Release-Year", "none_of": ["1990"]}]},
        ["filter.attributes[0].name: no item has the attribute 'Release-Year'; did you mean 'release_year'?"],
    ),
    (
        {"attributes": [{"name": "country", "min": 3}]},
        [
            "filter.attributes[0].name: no item has the attribute 'country'; did you mean 'Country'?",
            "filter: no item passes it",
        ],
    ),
    (
        {"attributes": [{"name": "release_year", "any_of": ["1990", "1995.0"]}]},
        ["filter.attributes[0].any_of[1]: no item's release_year is '1995.0'; did you mean '1995'?"],
    ),
    (
        {"attributes": [{"name": "Country", "none_of": ["france"]}]},
        ["filter.attributes[0].none_of[0]: no item's Country is 'france'; did you mean 'France'?"],
    ),
    (
        {"attributes": [{"name": "release_year"}]},
        ["filter.attributes[0]: asks for nothing: it has neither any_of, none_of, min nor max"],
    ),
    ({"attributes": [{"name": "release_year", "min": 2001}]}, ["filter: no item passes it"]),
    ({"include_categories": ["drama"], "exclude_categories": ["drama"]}, ["filter: no item passes it"]),
]


@pytest.mark.parametrize(("wire", "warnings"), FILTERS)
async def test_an_answer_says_what_its_filter_most_likely_meant(
    parts: Parts, wire: dict[str, Any], warnings: list[str]
) -> None:
    item_filter = pb.RecommendFilter(**wire)
    for recent in ([], ["item-1"]):
        answer = await parts.stub.Recommend(pb.RecommendRequest(filter=item_filter, recent_item_ids=recent))
        assert list(answer.warnings) == warnings
        assert bool(answer.items) == ("filter: no item passes it" not in warnings)
    similar = await parts.stub.SimilarItems(pb.SimilarItemsRequest(item_ids=["item-2"], filter=item_filter))
    assert list(similar.warnings) == warnings
    entry = pb.RecommendBatchRequest(request=pb.RecommendRequest(filter=item_filter))
    (batched,) = [answer async for answer in parts.stub.RecommendBatch(iter([entry]), timeout=PATIENCE_SECONDS)]
    assert list(batched.response.warnings) == warnings


async def test_they_are_counted_by_kind(parts: Parts) -> None:
    before = parts.statistics.warnings_by_kind.copy()
    wrong = pb.RecommendFilter(include_categories=["Drama", "noir"], attributes=[{"name": "year", "max": 1}])
    await parts.stub.Recommend(pb.RecommendRequest(filter=wrong))
    await parts.stub.SimilarItems(pb.SimilarItemsRequest(item_ids=["item-2"], filter=wrong))
    await parts.stub.Recommend(pb.RecommendRequest(filter=pb.RecommendFilter(include_categories=["noir"])))
    counted = parts.statistics.warnings_by_kind - before
    assert counted == {
        WarningKind.UNKNOWN_CATEGORY: 2,
        WarningKind.UNKNOWN_ATTRIBUTE: 2,
        WarningKind.MATCHES_NOTHING: 2,
    }


async def test_a_filter_that_a_policy_empties_is_said(parts: Parts) -> None:
    noir = pb.RecommendFilter(include_categories=["noir"])
    answer = await parts.stub.Recommend(pb.RecommendRequest(scenario="westerns", filter=noir))
    assert not answer.items
    assert list(answer.warnings) == ["filter: no item passes it together with the rules of the scenario's policy"]
    assert not (await parts.stub.Recommend(pb.RecommendRequest(filter=noir))).warnings


async def test_a_scenario_whose_rules_no_item_passes_is_said(parts: Parts) -> None:
    answer = await parts.stub.Recommend(pb.RecommendRequest(scenario="misspelt"))
    assert (list(answer.items), list(answer.warnings)) == ([], ["scenario: no item passes the rules of its policy"])


async def test_the_operator_learns_which_names_of_the_policies_are_not_there(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "policies.yaml").write_text(POLICIES)
    policies = load_policies(tmp_path / "policies.yaml", policy_choices())
    assert parts.models.current is not None
    assert policy_problems(policies, parts.models.current) == [
        "default.boosts[0].category: no item has the category 'Drama'; did you mean 'drama'?",
        "default.boosts[0]: no item passes it",
        "default.category_caps: no item has the category 'opera'",
        "scenarios.misspelt.include_categories[0]: no item has the category 'Western'; did you mean 'western'?",
        "scenarios.misspelt.attributes[0].name: no item has the attribute 'year'",
        "scenarios.misspelt: no item passes it",
    ]
    with structlog.testing.capture_logs() as lines:
        following = asyncio.create_task(
            follow_policies(PolicyFile(tmp_path / "policies.yaml", policy_choices()), parts.models, poll_seconds=0.01)
        )
        await wait_until(lambda: lines, "it is logged")
        await asyncio.sleep(0.1)
        following.cancel()
    (line,) = [line for line in lines if line["event"] == "policies_name_what_is_not_there"]
    assert (len(line["problems"]), line["left_out"], line["model_version"]) == (6, 0, "tiny-1")


async def test_recent_items_of_which_none_is_known_are_said(parts: Parts) -> None:
    answer = await parts.stub.Recommend(pb.RecommendRequest(recent_item_ids=["1", "2"]))
    assert list(answer.warnings) == ["recent_item_ids: none of 2 is in the catalogue; the first is '1'"]
    answer = await parts.stub.Recommend(pb.RecommendRequest(recent_item_ids=["1", "item-1"]))
    assert list(answer.warnings) == []


async def test_ten_warnings_are_enough(parts: Parts) -> None:
    wrong = pb.RecommendFilter(include_categories=[f"category {number}" for number in range(100)])
    answer = await parts.stub.Recommend(pb.RecommendRequest(filter=wrong))
    assert len(answer.warnings) == 10
    assert answer.warnings[-1] == "filter: no item passes it"


async def test_a_minimum_above_the_maximum_is_an_error(parts: Parts) -> None:
    wrong = pb.RecommendFilter(attributes=[{"name": "release_year", "min": 1999, "max": 1990}])
    assert await refused_field(parts.stub.Recommend(pb.RecommendRequest(filter=wrong))) == "filter.attributes[0].min"


async def test_a_known_filter_is_explained_once(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = pb.RecommendFilter(include_categories=["Noir"])
    first = await parts.stub.Recommend(pb.RecommendRequest(filter=wrong))
    monkeypatch.delattr("inference_server.model.catalogue.filtered_catalogue.filter_warnings")
    again = await parts.stub.Recommend(pb.RecommendRequest(filter=wrong))
    assert list(again.warnings) == list(first.warnings) != []

"""Pages over gRPC: every item once, whatever happens between two pages, and no token of another list."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inference_server.model.serving_model import ModelSlot, ServingModel, open_model
from tandem.contract.live_items import LiveItemVector
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.inference_server.in_process import Parts, in_process
from tests.inference_server.live.feeds import applied_change
from tests.inference_server.live.scenarios import changed_model
from tests.inference_server.wire_errors import refused_field
from tests.support.serving import Valkey, valkey
from tests.support.tiny_bundle import state_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

HISTORY = ["item-3", "item-14", "item-15"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as server:
        await server.put("u", state_of(HISTORY))
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def parts(model: ServingModel, store: Valkey) -> AsyncIterator[Parts]:
    slot = ModelSlot()
    slot.current = model
    async with in_process(slot, store_url=store.url) as running:
        yield running


def ids(response: pb.RecommendResponse) -> list[str]:
    return [item.item_id for item in response.items]


async def page(parts: Parts, **fields: Any) -> pb.RecommendResponse:
    response: pb.RecommendResponse = await parts.stub.Recommend(pb.RecommendRequest(**fields))
    return response


async def pages(parts: Parts, *, first: pb.RecommendResponse | None = None, **fields: Any) -> list[str]:
    """All items from the first page to the last."""
    response = first or await page(parts, **fields)
    items = ids(response)
    for _ in range(300):
        if not response.next_page_token:
            return items
        response = await page(parts, **fields, page_token=response.next_page_token)
        items += ids(response)
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("num_items", [1, 7, 50, 199, 500])
@pytest.mark.parametrize(
    "fields",
    [
        {"user_id": "u"},
        {"user_id": "u", "exclude_seen": False},
        {"user_id": "nobody"},
        {},
        {"user_id": "u", "filter": pb.RecommendFilter(exclude_categories=["drama"], exclude_item_ids=["item-1"])},
        {"filter": pb.RecommendFilter(include_categories=["rare"])},
        {"user_id": "u", "filter": pb.RecommendFilter(exclude_item_ids=[f"item-{row}" for row in range(50, 350)])},
    ],
    ids=["personal", "seen too", "unknown", "anonymous", "filter", "few", "long list"],
)
async def test_all_pages_together_are_one_large_answer(parts: Parts, num_items: int, fields: dict[str, Any]) -> None:
    items = await pages(parts, num_items=num_items, **fields)
    whole = ids(await page(parts, num_items=500, **fields))
    assert len(items) == len(set(items)), "an item came twice"
    assert items == whole


async def test_the_size_of_a_page_may_change(parts: Parts) -> None:
    first = await page(parts, user_id="u", num_items=5)
    second = await page(parts, user_id="u", num_items=20, page_token=first.next_page_token, explain=True)
    assert ids(first) + ids(second) == ids(await page(parts, user_id="u", num_items=25))


async def test_no_page_repeats_an_item_when_the_user_has_gone_on(parts: Parts, store: Valkey) -> None:
    await store.put("moves", state_of(HISTORY))
    first = await page(parts, user_id="moves", num_items=40)
    await store.put("moves", state_of([*HISTORY, *ids(first)[:3], "item-180"], revision=2))
    later_items = await pages(
        parts,
        first=await page(parts, user_id="moves", num_items=40, page_token=first.next_page_token),
        user_id="moves",
        num_items=40,
    )
    everything = ids(first) + later_items
    assert len(everything) == len(set(everything))
    expected = {f"item-{row}" for row in range(200)} - set(HISTORY)
    assert expected - set(everything) <= {"item-180"}, "an item that was clicked between the pages may be left out"


async def test_recent_items_may_change_between_pages(parts: Parts) -> None:
    first = await page(parts, user_id="u", num_items=40)
    clicked = ids(first)[0]
    second = await page(
        parts, user_id="u", num_items=200, page_token=first.next_page_token, recent_item_ids=[clicked, "item-77"]
    )
    assert not set(ids(first)) & set(ids(second))
    assert "item-77" not in ids(second)


FIELDS: dict[str, Any] = {"user_id": "u", "filter": pb.RecommendFilter(exclude_categories=["noir"])}


async def test_a_page_follows_from_a_worker_that_does_not_know_a_live_item_yet(parts: Parts) -> None:
    served = parts.models.current
    assert served is not None
    vector = LiveItemVector(1, served.bundle.item_vectors[3])
    change = applied_change("new", 1, slot=1_000)
    parts.models.current = changed_model(served, [change], {"new": vector})
    try:
        first = await page(parts, user_id="u", num_items=100)
    finally:
        parts.models.current = served
    assert "new" in ids(first)
    items = await pages(parts, first=first, user_id="u", num_items=100)
    assert set(items) == {f"item-{row}" for row in range(200)} - set(HISTORY) | {"new"}
    assert len(items) == len(set(items))


class TestTokensOfOthers:
    @pytest.mark.parametrize(
        "changed",
        [
            {"user_id": "v"},
            {"user_id": ""},
            {"filter": pb.RecommendFilter(exclude_categories=["drama"])},
            {"filter": pb.RecommendFilter()},
            {"exclude_seen": False},
            {"diversity": 0.5},
        ],
        ids=["user", "anonymous", "filter", "no filter", "seen", "diversity"],
    )
    async def test_what_was_asked_for_must_be_as_it_was(self, parts: Parts, changed: dict[str, Any]) -> None:
        token = (await page(parts, **FIELDS)).next_page_token
        assert token
        call = parts.stub.Recommend(pb.RecommendRequest(**{**FIELDS, **changed}, page_token=token))
        assert await refused_field(call) == "page_token"
        assert parts.admission.in_flight == 0

    async def test_a_changed_token_is_refused(self, parts: Parts) -> None:
        token = (await page(parts, **FIELDS)).next_page_token
        middle = len(token) // 2
        other = "A" if token[middle] != "A" else "B"
        for changed in (token[:middle] + other + token[middle + 1 :], token[:-4], token + "AAAA", "x", "é"):
            call = parts.stub.Recommend(pb.RecommendRequest(**FIELDS, page_token=changed))
            assert await refused_field(call) == "page_token"

    async def test_a_token_of_another_bundle_is_refused(self, parts: Parts, tmp_path: Path) -> None:
        token = (await page(parts, **FIELDS)).next_page_token
        served = parts.models.current
        parts.models.current = open_model(build(tmp_path / "other", model_version="tiny-2").directory)
        try:
            call = parts.stub.Recommend(pb.RecommendRequest(**FIELDS, page_token=token))
            assert await refused_field(call) == "page_token"
        finally:
            parts.models.current = served
        assert ids(await page(parts, **FIELDS, page_token=token)), "the bundle that issued it opens it"

"""SimilarItems over gRPC: brute force, filters, reasons, and refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from inference_server.model.serving_model import ModelSlot, ServingModel
from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.in_process import Parts, in_process
from tests.inference_server.wire_errors import refused, refused_field

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def parts(model: ServingModel) -> AsyncIterator[Parts]:
    slot = ModelSlot()
    slot.current = model
    async with in_process(slot) as running:
        yield running


async def similar(parts: Parts, **fields: Any) -> pb.SimilarItemsResponse:
    response: pb.SimilarItemsResponse = await parts.stub.SimilarItems(pb.SimilarItemsRequest(**fields))
    return response


def ids(response: pb.SimilarItemsResponse) -> list[str]:
    return [item.item_id for item in response.items]


def scores_of(bundle: Bundle, item_ids: list[str]) -> np.ndarray:
    """Cosine to the mean vector, of all items."""
    mean = bundle.item_vectors[bundle.item_vocabulary.rows(item_ids)].mean(axis=0)
    scores: np.ndarray = bundle.item_vectors @ (mean / np.linalg.norm(mean))
    return scores


@pytest.mark.parametrize("item_ids", [["item-7"], ["item-7", "item-8", "item-199"], ["item-7", "item-7"]])
@pytest.mark.parametrize("num_items", [1, 10, 199, 500])
async def test_the_nearest_items_come_first_and_never_those_asked_about(
    parts: Parts, bundle: Bundle, item_ids: list[str], num_items: int
) -> None:
    response = await similar(parts, item_ids=item_ids, num_items=num_items)
    scores = scores_of(bundle, item_ids)
    order = [f"item-{row}" for row in np.argsort(-scores, kind="stable")]
    expected = [item_id for item_id in order if item_id not in item_ids][:num_items]
    assert ids(response) == expected
    for item in response.items:
        assert item.score == pytest.approx(scores[int(item.item_id.removeprefix("item-"))], abs=1e-5)
        assert not item.HasField("reason")
    assert (response.model_version, response.variant) == ("tiny-1", "champion")
    assert len(response.request_id) == 32


async def test_zero_items_are_ten(parts: Parts) -> None:
    assert len((await similar(parts, item_ids=["item-1"])).items) == 10


async def test_all_items_may_be_asked_about(parts: Parts) -> None:
    assert ids(await similar(parts, item_ids=[f"item-{row}" for row in range(200)])) == []


@pytest.mark.parametrize(
    ("wire", "kept"),
    [
        (pb.RecommendFilter(include_categories=["rare"]), lambda row: row % 10 == 0),
        (pb.RecommendFilter(exclude_categories=["drama", "comedy", "noir"]), lambda row: row % 4 == 2),
        (pb.RecommendFilter(exclude_item_ids=[f"item-{row}" for row in range(190)]), lambda row: row >= 190),
        (
            pb.RecommendFilter(exclude_item_ids=[f"item-{row}" for row in range(9_000) if row != 9]),
            lambda row: row == 9,
        ),
    ],
    ids=["included", "excluded", "items", "long list"],
)
async def test_filters_hold(parts: Parts, bundle: Bundle, wire: pb.RecommendFilter, kept: Any) -> None:
    response = await similar(parts, item_ids=["item-10"], num_items=500, filter=wire)
    scores = scores_of(bundle, ["item-10"])
    rows = [row for row in np.argsort(-scores, kind="stable").tolist() if kept(row) and row != 10]
    assert ids(response) == [f"item-{row}" for row in rows]


async def test_reasons_name_the_nearest_of_those_asked_about(parts: Parts, bundle: Bundle) -> None:
    asked = [f"item-{row}" for row in (3, 50, 70, 90, 110)]
    response = await similar(parts, item_ids=asked, num_items=4, explain=True)
    assert len(response.items) == 4
    vectors, rows = bundle.item_vectors, bundle.item_vocabulary.rows(asked)
    for item in response.items:
        row = int(item.item_id.removeprefix("item-"))
        nearest = rows[np.argsort(-(vectors[rows] @ vectors[row]))][:3]
        assert list(item.reason.because_item_ids) == [f"item-{near}" for near in nearest]
        assert item.reason.source == "two_tower"
        assert dict(item.reason.score_parts) == {"two_tower": pytest.approx(item.score)}
        assert item.reason.title == f"Title {item.item_id}"


async def test_an_item_that_is_not_there_is_named(parts: Parts) -> None:
    call = parts.stub.SimilarItems(pb.SimilarItemsRequest(item_ids=["item-1", "gone"]))
    error = await refused(call, grpc.StatusCode.NOT_FOUND)
    assert "'gone'" in (error.details() or "")
    assert parts.admission.in_flight == 0


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("item_ids", {}),
        ("item_ids", {"item_ids": [""]}),
        ("item_ids", {"item_ids": ["a"] * 1001}),
        ("item_ids", {"item_ids": ["x" * 257]}),
        ("num_items", {"item_ids": ["item-1"], "num_items": 501}),
        ("num_items", {"item_ids": ["item-1"], "num_items": -1}),
        (
            "filter.exclude_categories",
            {"item_ids": ["item-1"], "filter": pb.RecommendFilter(exclude_categories=["x" * 257])},
        ),
    ],
)
async def test_a_malformed_request_names_its_field(parts: Parts, field: str, fields: dict[str, Any]) -> None:
    assert await refused_field(parts.stub.SimilarItems(pb.SimilarItemsRequest(**fields))) == field
    assert parts.admission.in_flight == 0


async def test_no_model_is_unavailable() -> None:
    async with in_process(ModelSlot()) as empty:
        await refused(empty.stub.SimilarItems(pb.SimilarItemsRequest(item_ids=["item-1"])), grpc.StatusCode.UNAVAILABLE)

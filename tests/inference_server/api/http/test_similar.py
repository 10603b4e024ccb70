"""Similar items over HTTP: the same answers and errors as SimilarItems gives over gRPC."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx
import jsonschema_rs
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from inference_server.api.http.schemas import schema_documents
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import PATIENCE_SECONDS, Server
from tests.support.tiny_bundle import RARE

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.process]

SIMILAR_ITEMS = "/v1/similar-items"


@pytest.mark.parametrize(
    "payload",
    [
        {"item_ids": ["item-1"]},
        {"item_ids": ["item-1", "item-2"], "num_items": 5, "explain": True},
        {"item_ids": ["item-1"], "filter": {"include_categories": [RARE], "exclude_item_ids": ["item-10"]}},
    ],
    ids=json.dumps,
)
async def test_answers_are_those_of_grpc(server: Server, client: httpx.AsyncClient, payload: dict[str, Any]) -> None:
    over_http = (await client.post(SIMILAR_ITEMS, json=payload)).raise_for_status().json()
    over_grpc = MessageToDict(
        await server.stub.SimilarItems(ParseDict(payload, pb.SimilarItemsRequest()), timeout=PATIENCE_SECONDS),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    jsonschema_rs.validate(schema_documents()["similar-items-response"], over_http)
    assert len(over_http.pop("request_id")) == len(over_grpc.pop("request_id")) == 32
    assert over_http == over_grpc
    assert over_http["items"]


async def test_an_unknown_item_is_404(server: Server, client: httpx.AsyncClient) -> None:
    payload = {"item_ids": ["no-such-item"]}
    response = await client.post(SIMILAR_ITEMS, json=payload)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.stub.SimilarItems(ParseDict(payload, pb.SimilarItemsRequest()), timeout=PATIENCE_SECONDS)
    assert response.status_code == 404
    assert response.json()["error"]["status"] == caught.value.code().name == "NOT_FOUND"


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({}, "item_ids"),
        ({"item_ids": []}, "item_ids"),
        ({"item_ids": ["a"] * 1001}, "item_ids"),
        ({"item_ids": [""]}, "item_ids[0]"),
        ({"item_ids": ["item-1"], "num_items": 501}, "num_items"),
        ({"item_ids": ["item-1"], "user_id": "u"}, "user_id"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_malformed_request_names_the_field(
    client: httpx.AsyncClient, payload: dict[str, Any], field: str
) -> None:
    response = await client.post(SIMILAR_ITEMS, json=payload)
    assert response.status_code == 400
    assert response.json()["error"]["field"] == field

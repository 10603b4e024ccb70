"""POST /v1/recommend/many: the same outcomes as gRPC, errors of single queries, and errors of whole calls."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema_rs
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from inference_server.api.http.many import open_queries
from inference_server.api.http.schemas import schema_documents
from inference_server.api.http.validation import PayloadCheck
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import PATIENCE_SECONDS, Server

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.process]

MANY = "/v1/recommend/many"


def without_ids(payload: dict[str, Any]) -> dict[str, Any]:
    """The outcomes without what differs from call to call."""
    for outcome in payload["outcomes"]:
        outcome.get("response", {}).pop("request_id", None)
    return payload


async def test_the_outcomes_are_those_of_grpc(server: Server, client: httpx.AsyncClient) -> None:
    payload = {
        "queries": [
            {"correlation_id": "a", "request": {"user_id": "known", "num_items": 3, "explain": True}},
            {"correlation_id": "b", "request": {"num_items": 501}},
            {"request": {"filter": {"include_categories": ["no such"]}}},
            {},
            {"request": {"page_token": "none"}},
        ]
    }
    answered = await client.post(MANY, json=payload)
    assert answered.status_code == 200
    schema = jsonschema_rs.Draft202012Validator(schema_documents()["recommend-many-response"])
    schema.validate(answered.json())
    request = ParseDict(payload, pb.RecommendManyRequest())
    over_grpc = await server.stub.RecommendMany(request, timeout=PATIENCE_SECONDS)
    expected = MessageToDict(over_grpc, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    # The schema of HTTP says what is wrong in words of its own.
    assert answered.json()["outcomes"][1]["error"]["field"] == "queries[1].request.num_items"
    assert expected["outcomes"][1]["error"]["field"] == "queries[1].request.num_items"
    got = without_ids(answered.json())
    del got["outcomes"][1], expected["outcomes"][1]
    assert got == without_ids(expected)
    assert ["response" in outcome for outcome in got["outcomes"]] == [True, True, True, False]


@pytest.mark.parametrize(
    ("request_of_query", "field"),
    [
        ({"num_items": -1}, ".num_items"),
        ({"num_items": "3"}, ".num_items"),
        ({"filter": {"attributes": [{"min": 1}]}}, ".filter.attributes[0].name"),
        ({"user": "u"}, ".user"),
        ({"scenario": "no such"}, ".scenario"),
        (None, ""),
        ([], ""),
    ],
)
async def test_a_wrong_query_is_refused_alone_and_named(
    client: httpx.AsyncClient, request_of_query: Any, field: str
) -> None:
    payload = {"queries": [{"request": {}}, {"correlation_id": "wrong", "request": request_of_query}, {}]}
    answered = await client.post(MANY, json=payload)
    assert answered.status_code == 200
    good, wrong, other = answered.json()["outcomes"]
    assert len(good["response"]["items"]) == len(other["response"]["items"]) == 10
    assert wrong["correlation_id"] == "wrong"
    assert wrong["error"]["code"] == 3
    assert wrong["error"]["field"] == f"queries[1].request{field}"
    assert wrong["error"]["message"].startswith(f"queries[1].request{field}: ")


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({}, "queries"),
        ({"queries": []}, "queries"),
        ({"queries": [{}] * 257}, "queries"),
        ({"queries": [{"request": {"user_id": "u", "num_items": 101}}] * 256}, "queries"),
        ({"queries": [{"correlation_id": "a"}, {}, {"correlation_id": "a"}]}, "queries[2].correlation_id"),
        ({"queries": [{"correlation_id": "x" * 257}]}, "queries[0].correlation_id"),
        ({"queries": [{"correlation_id": 7}]}, "queries[0].correlation_id"),
        ({"queries": [{"user_id": "u"}]}, "queries[0].user_id"),
        ({"queries": [{}], "priority": "HIGH"}, "priority"),
        ({"queries": [{}], "deadline": 3}, "deadline"),
        ([], "body"),
    ],
)
async def test_what_concerns_the_whole_call_is_400(client: httpx.AsyncClient, payload: Any, field: str) -> None:
    refused = await client.post(MANY, json=payload)
    assert refused.status_code == 400
    assert refused.json()["error"]["field"] == field


async def test_half_of_a_surrogate_pair_is_400(client: httpx.AsyncClient) -> None:
    body = rb'{"queries": [{"correlation_id": "\ud800"}]}'
    refused = await client.post(MANY, content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 400
    assert refused.json()["error"]["field"] == "body"


async def test_a_call_in_bulk_is_answered(client: httpx.AsyncClient) -> None:
    payload = {"queries": [{"request": {"num_items": 2}}] * 40, "priority": "RECOMMEND_PRIORITY_BULK"}
    answered = await client.post(MANY, json=payload)
    assert [len(outcome["response"]["items"]) for outcome in answered.json()["outcomes"]] == [2] * 40


async def test_the_queries_are_counted(server: Server, client: httpx.AsyncClient) -> None:
    await client.post(MANY, json={"queries": [{}, {"request": {"num_items": 501}}]})
    metrics = await server.metrics()
    assert 'tandem_many_queries_total{code="OK"}' in metrics
    assert 'tandem_many_queries_total{code="INVALID_ARGUMENT"}' in metrics


async def test_the_schema_of_the_call_does_not_look_into_queries() -> None:
    document = schema_documents()["recommend-many-request"]
    payload = {"queries": [{"request": {"num_items": 501}}]}
    PayloadCheck(open_queries(document)).check(payload)
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.Draft202012Validator(document).validate(payload)

"""The HTTP API of a real server: every path, the errors a caller can cause, and the same answers as gRPC."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import jsonschema_rs
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.supervisor.test_lifecycle import until_in_flight
from tests.support.serving import LONGEST_DEADLINE_MS, PATIENCE_SECONDS, Server, serve, valkey
from tests.support.tiny_bundle import CATEGORIES, RARE

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.process]

RECOMMEND = "/v1/recommend"
JSON = {"content-type": "application/json"}
SCHEMAS = (
    "recommend-request",
    "recommend-response",
    "similar-items-request",
    "similar-items-response",
    "status-response",
    "error",
)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def schemas(client: httpx.AsyncClient) -> dict[str, jsonschema_rs.Validator]:
    documents = {name: (await client.get(f"/schemas/{name}.json")).json() for name in SCHEMAS}
    return {name: jsonschema_rs.Draft202012Validator(document) for name, document in documents.items()}


def error_of(response: httpx.Response, schemas: dict[str, jsonschema_rs.Validator]) -> dict[str, Any]:
    """The error in a response, which must be one that the schema of errors describes."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    schemas["error"].validate(body)
    error: dict[str, Any] = body["error"]
    assert error["code"] == response.status_code
    return error


class TestTheSameAsGrpc:
    @pytest.mark.parametrize(
        "payload",
        [
            {},
            {"user_id": "known"},
            {"user_id": "known", "num_items": 3, "explain": True},
            {"user_id": "ünknown", "num_items": 500, "explain": True},
            {"recent_item_ids": ["item-1", "no-such-item"], "context": {"device": "phone"}, "explain": True},
            {"user_id": "known", "num_items": 200, "exclude_seen": False},
            {
                "user_id": "known",
                "filter": {
                    "include_categories": [RARE, CATEGORIES[0]],
                    "exclude_categories": [CATEGORIES[1]],
                    "exclude_item_ids": ["item-0", "item-40"],
                },
            },
            {"filter": {"include_categories": ["no such category"]}},
        ],
        ids=json.dumps,
    )
    async def test_answers(
        self,
        server: Server,
        client: httpx.AsyncClient,
        schemas: dict[str, jsonschema_rs.Validator],
        payload: dict[str, Any],
    ) -> None:
        over_http = (await client.post(RECOMMEND, json=payload)).raise_for_status().json()
        over_grpc = MessageToDict(
            await server.stub.Recommend(ParseDict(payload, pb.RecommendRequest()), timeout=PATIENCE_SECONDS),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        assert len(over_http.pop("request_id")) == len(over_grpc.pop("request_id")) == 32
        assert over_http == over_grpc
        schemas["recommend-request"].validate(payload)
        schemas["recommend-response"].validate({**over_http, "request_id": ""})

    @pytest.mark.parametrize(
        "payload",
        [
            {"num_items": 501},
            {"num_items": -1},
            {"user_id": "x" * 257},
            {"user_id": "ü" * 129},
            {"recent_item_ids": ["a"] * 1001},
            {"recent_item_ids": ["ü" * 129]},
            {"filter": {"include_categories": ["a"] * 101}},
            {"filter": {"exclude_item_ids": ["a"] * 10_001}},
        ],
        ids=lambda payload: json.dumps(payload)[:50],
    )
    async def test_errors(
        self,
        server: Server,
        client: httpx.AsyncClient,
        schemas: dict[str, jsonschema_rs.Validator],
        payload: dict[str, Any],
    ) -> None:
        response = await client.post(RECOMMEND, json=payload)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.Recommend(ParseDict(payload, pb.RecommendRequest()), timeout=PATIENCE_SECONDS)
        status = rpc_status.from_call(caught.value)
        bad_request = error_details_pb2.BadRequest()
        status.details[0].Unpack(bad_request)
        assert response.status_code == 400
        error = error_of(response, schemas)
        assert error["status"] == caught.value.code().name
        assert error["field"] == bad_request.field_violations[0].field

    async def test_status(
        self, server: Server, client: httpx.AsyncClient, schemas: dict[str, jsonschema_rs.Validator]
    ) -> None:
        over_http = (await client.get("/v1/status")).raise_for_status().json()
        over_grpc = MessageToDict(
            await server.status(), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        schemas["status-response"].validate(over_http)
        assert over_http.pop("uptime_seconds") < over_grpc.pop("uptime_seconds")
        for status in (over_http, over_grpc):
            assert 0.0 <= status["live_catalogue"].pop("age_seconds") < PATIENCE_SECONDS
        assert over_http == over_grpc


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "field"),
        [
            (b"", "body"),
            (b"{", "body"),
            (b"[]", "body"),
            (b"null", "body"),
            (b"\xff", "body"),
            (b"[" * 100_000, "body"),
            (b'{"user_id": ' + b"[" * 900 + b"]" * 900 + b"}", "user_id"),
            (b'{"context": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}", "context.a"),
            (b'{"filter": {"attributes": [{"name": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}]}}", None),
            (b'{"' + b"x" * 100_000 + b'": 1}', "x" * 64 + "..."),
            (b'{"\\ud800": 1}', "body"),
            (b'{"user_id": "\\ud800"}', "body"),
            (b'{"diversity": NaN}', "body"),
            (b'{"filter": {"attributes": [{"name": "price", "min": 1e999}]}}', "body"),
            (b'{"filter": {"attributes": [{"name": "price", "min": 1' + b"0" * 400 + b"}]}}", "body"),
            (b'{"num_items": 1' + b"0" * 5000 + b"}", "body"),
            (b'{"num_items": "many"}', "num_items"),
            (b'{"num_items": 1.5}', "num_items"),
            (b'{"num_items": null}', "num_items"),
            (b'{"num_itmes": 1}', "num_itmes"),
            (b'{"numItems": 1}', "numItems"),
            (b'{"diversity": 2}', "diversity"),
            (b'{"explain": 1}', "explain"),
            (b'{"recent_item_ids": ["a", ""]}', "recent_item_ids[1]"),
            (b'{"filter": {"attributes": [{"min": 1}]}}', "filter.attributes[0].name"),
            (b'{"filter": {"attributes": [{"name": "a", "any": []}]}}', "filter.attributes[0].any"),
            (json.dumps({"context": {"k" * 257: ""}}).encode(), "context"),
            (json.dumps({"context": {str(n): "" for n in range(33)}}).encode(), "context"),
        ],
        ids=lambda value: str(value)[:60],
    )
    async def test_a_malformed_body_is_400_and_names_the_place(
        self, client: httpx.AsyncClient, schemas: dict[str, jsonschema_rs.Validator], body: bytes, field: str
    ) -> None:
        response = await client.post(RECOMMEND, content=body, headers=JSON)
        assert response.status_code == 400
        error = error_of(response, schemas)
        assert (error["status"], error["field"]) == ("INVALID_ARGUMENT", field or "filter.attributes[0].name")
        assert len(error["message"]) < 300

    @pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["lists", "objects"])
    async def test_a_nested_attribute_is_named(self, client: httpx.AsyncClient, opening: bytes) -> None:
        closing = b"]" if opening == b"[" else b"}"
        deep = opening * 900 + b"1" + closing * 900
        item = b'{"items": [{"item_id": "i", "attributes": {"year": ' + deep + b"}}]}"
        response = await client.put("/v1/items", content=item, headers=JSON)
        assert (response.status_code, response.json()["error"]["field"]) == (400, "items[0].attributes.year")
        event = b'{"events": [{"event_id": "e", "user_id": ' + deep + b', "item_id": "i", "type": "EVENT_TYPE_CLICK"}]}'
        response = await client.post("/v1/events", content=event, headers=JSON)
        assert (response.status_code, response.json()["error"]["field"]) == (400, "events[0].user_id")

    async def test_an_integer_may_be_written_as_a_fraction(self, client: httpx.AsyncClient) -> None:
        response = await client.post(RECOMMEND, content=b'{"num_items": 3.0}', headers=JSON)
        assert len(response.raise_for_status().json()["items"]) == 3

    @pytest.mark.parametrize("text", ["0", "-1", "1.5", "soon", "", "86400001", "9" * 5000, "٣"])
    async def test_a_bad_deadline_is_400(
        self, client: httpx.AsyncClient, schemas: dict[str, jsonschema_rs.Validator], text: str
    ) -> None:
        response = await client.post(RECOMMEND, json={}, headers={"x-timeout-ms": text.encode()})
        assert response.status_code == 400
        assert error_of(response, schemas)["field"] == "x-timeout-ms"

    async def test_a_deadline_that_leaves_time_is_kept(self, client: httpx.AsyncClient) -> None:
        response = await client.post(RECOMMEND, json={}, headers={"x-timeout-ms": "60000"})
        assert response.status_code == 200

    @pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "json"])
    async def test_another_content_type_is_415(
        self, client: httpx.AsyncClient, schemas: dict[str, jsonschema_rs.Validator], content_type: str | None
    ) -> None:
        headers = {} if content_type is None else {"content-type": content_type}
        response = await client.post(RECOMMEND, content=b"{}", headers=headers)
        assert response.status_code == 415
        error_of(response, schemas)

    async def test_a_content_type_may_have_parameters(self, client: httpx.AsyncClient) -> None:
        for content_type in ("Application/JSON; charset=utf-8", 'application/json;charset="UTF-8"', "text/json"):
            response = await client.post(RECOMMEND, content=b"{}", headers={"content-type": content_type})
            assert response.status_code == 200, content_type

    @pytest.mark.parametrize(
        ("content_type", "status"),
        [
            ("application/vnd.shop+json", 200),
            ("application/json; charset=utf-16", 415),
            ("application/json; charset=iso-8859-1", 415),
            ("application/jsonp", 415),
            ("application/json, text/plain", 415),
        ],
    )
    async def test_content_types_that_look_like_json(
        self, client: httpx.AsyncClient, content_type: str, status: int
    ) -> None:
        response = await client.post(RECOMMEND, content=b"{}", headers={"content-type": content_type})
        assert response.status_code == status

    @pytest.mark.parametrize(
        ("request_line", "status", "allowed"),
        [
            ("GET /v1/recommend", 405, "POST"),
            ("POST /v1/status", 405, "GET, HEAD"),
            ("DELETE /healthz", 405, "GET, HEAD"),
            ("GET /v1/nothing", 404, None),
            ("POST /v1/recommend/", 404, None),
            ("GET /v1/events", 405, "POST"),
            ("POST /v1/items", 405, "PUT"),
            ("GET /docs", 404, None),
            ("GET /schemas/nothing.json", 404, None),
        ],
    )
    async def test_a_path_or_method_that_is_not_there(
        self,
        client: httpx.AsyncClient,
        schemas: dict[str, jsonschema_rs.Validator],
        request_line: str,
        status: int,
        allowed: str | None,
    ) -> None:
        response = await client.request(*request_line.split())
        assert response.status_code == status
        assert response.headers.get("allow") == allowed
        error_of(response, schemas)


BOMB = bytes(20 << 20)
"""Twenty times the largest body, made where tests are collected: a larger one would cost every test process time."""


class TestCompression:
    async def test_a_packed_body_is_unpacked(self, client: httpx.AsyncClient) -> None:
        plain = b'{"num_items": 2}'
        raw = zlib.compressobj(wbits=-15)
        for coding, packed in (
            ("gzip", gzip.compress(plain)),
            ("GZIP", gzip.compress(plain[:5]) + gzip.compress(plain[5:])),
            ("x-gzip", gzip.compress(plain) + bytes(8)),
            ("deflate", zlib.compress(plain)),
            ("deflate", raw.compress(plain) + raw.flush()),
            ("identity", plain),
        ):
            response = await client.post(RECOMMEND, content=packed, headers={**JSON, "content-encoding": coding})
            assert len(response.raise_for_status().json()["items"]) == 2, coding

    @pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "x" * 1000])
    async def test_another_coding_is_415_and_says_which_are_taken(
        self, client: httpx.AsyncClient, schemas: dict[str, jsonschema_rs.Validator], coding: str
    ) -> None:
        response = await client.post(RECOMMEND, content=b"x", headers={**JSON, "content-encoding": coding})
        assert (response.status_code, response.headers["accept-encoding"]) == (415, "gzip, deflate")
        message = error_of(response, schemas)["message"]
        assert "gzip and deflate" in message
        assert len(message) < 150

    @pytest.mark.parametrize(
        ("coding", "packed", "status"),
        [
            ("gzip", gzip.compress(b" " * (1 << 20) + b"{}"), 413),
            ("gzip", gzip.compress(BOMB), 413),
            ("gzip", gzip.compress(b" " * (1 << 19)) * 3, 413),
            ("deflate", zlib.compress(BOMB), 413),
            ("gzip", gzip.compress(b"{}")[:-4], 400),
            ("gzip", b"{}", 400),
            ("gzip", b"", 400),
            ("gzip", gzip.compress(b"{}") + b"{}", 400),
            ("gzip", gzip.compress(b"") * 10_000, 400),
            ("deflate", b"{}", 400),
        ],
        ids=["one byte", "bomb", "members", "deflate bomb", "cut", "plain", "empty", "tail", "many", "plain deflate"],
    )
    async def test_what_is_too_large_or_damaged_is_refused(
        self, client: httpx.AsyncClient, coding: str, packed: bytes, status: int
    ) -> None:
        response = await client.post(RECOMMEND, content=packed, headers={**JSON, "content-encoding": coding})
        assert response.status_code == status
        if status == 400:
            assert response.json()["error"]["field"] == "body"

    async def test_a_byte_order_mark_is_skipped(self, client: httpx.AsyncClient) -> None:
        response = await client.post(RECOMMEND, content=b'\xef\xbb\xbf{"num_items": 2}', headers=JSON)
        assert len(response.raise_for_status().json()["items"]) == 2


class TestBodyLimit:
    async def test_the_largest_body_is_read(self, client: httpx.AsyncClient) -> None:
        response = await client.post(RECOMMEND, content=b"{}".ljust(1 << 20), headers=JSON)
        assert response.status_code == 200

    async def test_a_declared_body_is_refused_before_it_is_sent(self, server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        writer.write(
            b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: 1048577\r\n\r\n"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
        await writer.wait_closed()

    async def test_an_undeclared_body_is_refused_when_it_grows_too_large(
        self, client: httpx.AsyncClient, schemas: dict[str, jsonschema_rs.Validator]
    ) -> None:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(17):
                yield b" " * (1 << 16)

        response = await client.post(RECOMMEND, content=parts(), headers=JSON)
        assert response.status_code == 413
        error_of(response, schemas)

    async def test_an_undeclared_body_that_is_small_is_read(self, client: httpx.AsyncClient) -> None:
        async def parts() -> AsyncIterator[bytes]:
            yield b'{"num_'
            yield b'items": 2}'

        response = await client.post(RECOMMEND, content=parts(), headers=JSON)
        assert len(response.raise_for_status().json()["items"]) == 2


class TestProbesAndSchemas:
    async def test_alive_and_ready(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/healthz")).json() == {"status": "ALIVE"}
        assert (await client.get("/readyz")).json() == {"status": "SERVING"}

    @pytest.mark.parametrize("name", SCHEMAS)
    async def test_every_schema_is_one_of_its_draft(self, client: httpx.AsyncClient, name: str) -> None:
        document = (await client.get(f"/schemas/{name}.json")).json()
        assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert document["$id"] == f"/schemas/{name}.json"
        jsonschema_rs.meta.validate(document)

    async def test_requests_and_their_times_are_counted(self, server: Server, client: httpx.AsyncClient) -> None:
        await client.post(RECOMMEND, json={"num_items": 501})
        text = await server.metrics()
        assert 'tandem_http_requests_total{status="200"}' in text
        assert 'tandem_http_requests_total{status="400"}' in text
        assert 'tandem_http_request_seconds_bucket{le="+Inf"}' in text


async def test_without_a_model_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    registry = f"sqlite:///{tmp_path}/nowhere/mlflow.db"
    async with (
        serve(tmp_path, until_serving=False, registry_uri=registry, store_url="redis://127.0.0.1:1/0") as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}") as client,
    ):
        assert (await client.get("/healthz")).status_code == 200
        for response in (await client.get("/readyz"), await client.post(RECOMMEND, json={})):
            assert response.status_code == 503
            assert response.json()["error"]["status"] == "UNAVAILABLE"
        assert (await client.get("/v1/status")).json()["model_version"] == ""


async def test_http_can_be_switched_off(tmp_path: Path, bundle: Bundle) -> None:
    async with serve(tmp_path, bundle_path=bundle.directory, http_enabled=False) as server:
        assert server.http_port == 0
        assert await server.stop() == 0


async def test_a_request_in_flight_is_finished_at_shutdown(tmp_path: Path, bundle: Bundle) -> None:
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(
            tmp_path / "server", bundle_path=bundle.directory, store_url=store.url, deadline_ms=LONGEST_DEADLINE_MS
        ) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}", timeout=PATIENCE_SECONDS) as client,
    ):
        store.pause()
        call = asyncio.create_task(client.post(RECOMMEND, json={"user_id": "u"}))
        await until_in_flight(server.metrics_port)
        stopping = asyncio.create_task(server.stop())
        await server.log("draining", requests_in_flight=1)
        assert not call.done()
        store.resume()
        assert (await call).json()["degraded_reasons"] == []
        assert await stopping == 0


async def test_a_request_that_outlasts_the_grace_period_is_told(tmp_path: Path, bundle: Bundle) -> None:
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(
            tmp_path / "server",
            bundle_path=bundle.directory,
            store_url=store.url,
            deadline_ms=LONGEST_DEADLINE_MS,
            shutdown_grace_seconds=0.2,
        ) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}", timeout=PATIENCE_SECONDS) as client,
    ):
        store.pause()
        call = asyncio.create_task(client.post(RECOMMEND, json={"user_id": "u"}))
        await until_in_flight(server.metrics_port)
        assert await server.stop() == 0
        assert (await call).status_code == 503


async def test_an_idle_connection_does_not_hold_up_the_end(tmp_path: Path, bundle: Bundle) -> None:
    async with (
        serve(tmp_path, bundle_path=bundle.directory, shutdown_grace_seconds=600) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}") as client,
    ):
        assert (await client.get("/healthz")).status_code == 200
        assert await server.stop() == 0

"""Pages of other origins, HEAD, and addresses of IPv6."""

from __future__ import annotations

from pathlib import Path

import grpc
import httpx
import pytest

from inference_server.core.errors import SettingsError
from inference_server.core.settings import Settings
from inference_server.model.serving_model import ModelSlot
from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc
from tests.inference_server.api.http.in_process import RECOMMEND, served
from tests.inference_server.api.http.test_server import OneKey
from tests.support.serving import PATIENCE_SECONDS, serve

pytestmark = pytest.mark.process

SHOP = "https://shop.example"
PREFLIGHT = {
    "origin": SHOP,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-timeout-ms",
}


class TestOrigins:
    async def test_by_default_there_are_none(self, models: ModelSlot) -> None:
        async with served(models) as running:
            preflight = await running.client.options(RECOMMEND, headers=PREFLIGHT)
            answer = await running.client.post(RECOMMEND, json={}, headers={"origin": SHOP})
        assert (preflight.status_code, answer.status_code) == (405, 200)
        for response in (preflight, answer):
            assert not [name for name in response.headers if name.startswith("access-control")]

    async def test_a_listed_origin_may_call_with_a_key(self, models: ModelSlot) -> None:
        async with served(models, api_keys=OneKey(), cors_origins=("https://other.example", SHOP)) as running:
            preflight = await running.client.options(RECOMMEND, headers=PREFLIGHT)
            answer = await running.client.post(RECOMMEND, json={}, headers={"origin": SHOP, "x-api-key": "secret"})
            refused = await running.client.post(RECOMMEND, json={}, headers={"origin": SHOP})
        assert (preflight.status_code, answer.status_code, refused.status_code) == (200, 200, 401)
        assert set(preflight.headers["access-control-allow-methods"].split(", ")) == {"GET", "HEAD", "POST", "PUT"}
        allowed = {name.lower() for name in preflight.headers["access-control-allow-headers"].split(", ")}
        assert {"authorization", "content-type", "content-encoding", "x-api-key", "x-timeout-ms"} <= allowed
        for response in (preflight, answer, refused):
            assert response.headers["access-control-allow-origin"] == SHOP
            assert "origin" in response.headers["vary"].lower()
            assert "access-control-allow-credentials" not in response.headers
        assert "retry-after" in answer.headers["access-control-expose-headers"]

    @pytest.mark.parametrize("origin", ["https://evil.example", "https://shop.example.evil.example", "null"])
    async def test_no_other_one(self, models: ModelSlot, origin: str) -> None:
        async with served(models, cors_origins=(SHOP,)) as running:
            preflight = await running.client.options(RECOMMEND, headers={**PREFLIGHT, "origin": origin})
            answer = await running.client.post(RECOMMEND, json={}, headers={"origin": origin})
        assert preflight.status_code == 400
        for response in (preflight, answer):
            assert "access-control-allow-origin" not in response.headers

    async def test_a_star_stands_for_all_and_never_for_cookies(self, models: ModelSlot) -> None:
        async with served(models, cors_origins=("*",)) as running:
            for headers in (PREFLIGHT, {**PREFLIGHT, "cookie": "a=b"}):
                preflight = await running.client.options(RECOMMEND, headers=headers)
                assert preflight.headers["access-control-allow-origin"] == "*"
                assert "access-control-allow-credentials" not in preflight.headers

    def test_the_setting_is_a_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TANDEM_HTTP_CORS_ORIGINS", " https://shop.example, http://localhost:3000 ,http://[::1]:80")
        assert Settings.load().cors_origins == (SHOP, "http://localhost:3000", "http://[::1]:80")
        monkeypatch.delenv("TANDEM_HTTP_CORS_ORIGINS")
        assert Settings.load().cors_origins == ()

    @pytest.mark.parametrize(
        "text",
        ["shop.example", "https://shop.example/", "https://SHOP.example", "*,https://shop.example", "https://*.x"],
    )
    def test_what_no_browser_sends_is_refused(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("TANDEM_HTTP_CORS_ORIGINS", text)
        with pytest.raises(SettingsError, match="TANDEM_HTTP_CORS_ORIGINS"):
            Settings.load()


class TestHead:
    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/schemas/error.json", "/v1/status"])
    async def test_is_get_without_the_body(self, models: ModelSlot, path: str) -> None:
        async with served(models) as running:
            head, get = await running.client.head(path), await running.client.get(path)
        assert head.status_code == get.status_code == 200
        assert head.content == b""
        if path != "/v1/status":  # it counts its own requests
            assert head.headers["content-length"] == get.headers["content-length"]

    async def test_the_document_does_not_repeat_itself(self, models: ModelSlot) -> None:
        async with served(models) as running:
            document = (await running.client.get("/openapi.json")).json()
        assert not [path for path, methods in document["paths"].items() if "head" in methods]


@pytest.mark.parametrize(("host", "addresses"), [("::", ["127.0.0.1", "[::1]"]), ("::1", ["[::1]"])])
async def test_every_port_listens_on_ipv6(tmp_path: Path, bundle: Bundle, host: str, addresses: list[str]) -> None:
    async with serve(
        tmp_path, until_serving=False, bundle_path=bundle.directory, host=host, workers=2, store_url="redis://[::1]:1/0"
    ) as server:
        await server.log("model_serving")
        for address in addresses:
            async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
                response = await client.get(f"http://{address}:{server.http_port}/readyz")
                assert response.json() == {"status": "SERVING"}
                metrics = await client.get(f"http://{address}:{server.metrics_port}/metrics")
                assert "tandem_requests" in metrics.text
                head = await client.head(f"http://{address}:{server.metrics_port}/metrics")
                assert (head.status_code, head.content) == (200, b"")
                assert int(head.headers["content-length"]) > 1000
            async with grpc.aio.insecure_channel(f"{address}:{server.grpc_port}") as channel:
                stub = pb_grpc.RecommendationServiceStub(channel)
                answer = await stub.Recommend(pb.RecommendRequest(num_items=2), timeout=PATIENCE_SECONDS)
                assert len(answer.items) == 2

"""The HTTP server in this process, for cases that a server process cannot be made to show: bugs, callers who go,
no room."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import httpx
import pytest
import structlog

from inference_server.api.http import body
from inference_server.api.http import server as server_module
from inference_server.api.http.server import HttpServer
from inference_server.core.errors import PortUnavailable, Unauthenticated
from inference_server.core.settings import TlsFiles
from inference_server.model.serving_model import ModelSlot
from inference_server.security.callers import ALL_RIGHTS, Caller, Right
from inference_server.security.tls import Certificates
from inference_server.telemetry.statistics import Statistics
from tests.inference_server.api.http.in_process import RECOMMEND, served
from tests.inference_server.request.requests_at_stages import slow_tower
from tests.support.certificates import Authority
from tests.support.serving import PATIENCE_SECONDS, valkey, wait_until

pytestmark = pytest.mark.process


async def test_a_bug_of_ours_is_500_and_told_to_the_log_alone(models: ModelSlot) -> None:
    async with served(models, ladder=slow_tower()) as running:
        running.threads.shutdown()  # the stage that needs a thread raises an error that no stage expects
        with structlog.testing.capture_logs() as logs:
            response = await running.client.post(RECOMMEND, json={"recent_item_ids": ["item-1"]})
        assert response.status_code == 500
        error = response.json()["error"]
        line = next(line for line in logs if line["event"] == "request_failed")
        assert error["request_id"] == line["request_id"]
        assert error["message"] == f"internal error, request_id {line['request_id']}"
        assert line["exc_info"]
        assert running.statistics.http_requests_by_status == {"500": 1}
        assert running.admission.in_flight == 0
        assert (await running.client.post(RECOMMEND, json={})).status_code == 200, "the next request is not harmed"


async def test_a_caller_who_goes_is_counted_and_gives_the_permit_back(models: ModelSlot, tmp_path: Path) -> None:
    async with valkey(tmp_path) as store, served(models, store_url=store.url) as running:
        store.pause()
        call = asyncio.ensure_future(running.client.post(RECOMMEND, json={"user_id": "u"}))
        await wait_until(lambda: running.admission.in_flight == 1, "the request is admitted")
        call.cancel()
        await wait_until(lambda: running.admission.in_flight == 0, "the permit is back")
        await wait_until(lambda: running.statistics.http_requests_by_status == {"499": 1}, "it is counted")
        store.resume()
        assert (await running.client.post(RECOMMEND, json={})).status_code == 200


async def test_a_deadline_too_short_for_any_answer_is_504(models: ModelSlot) -> None:
    async with served(models, max_seconds=0.0005) as running:
        response = await running.client.post(RECOMMEND, json={})
    assert response.status_code == 504
    assert response.json()["error"]["status"] == "DEADLINE_EXCEEDED"


async def test_the_callers_deadline_is_kept(models: ModelSlot, tmp_path: Path) -> None:
    async with valkey(tmp_path) as store, served(models, store_url=store.url) as running:
        store.pause()
        # The server's own deadline is a minute away, and the store does not answer.
        response = await running.client.post(RECOMMEND, json={"user_id": "u"}, headers={"x-timeout-ms": "300"})
        store.resume()
    assert response.json()["degraded_reasons"] == ["store_timeout"]


async def test_over_capacity_is_429_and_says_when_to_retry(models: ModelSlot) -> None:
    async with served(models, max_concurrent_requests=0) as running:
        response = await running.client.post(RECOMMEND, json={})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    error = response.json()["error"]
    assert (error["status"], error["retry_after_ms"]) == ("RESOURCE_EXHAUSTED", 100)


async def test_a_body_that_never_ends_is_408(models: ModelSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_BODY_SECONDS", 0.05)
    async with served(models) as running:
        reader, writer = await asyncio.open_connection(*running.address)
        writer.write(
            b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()
        assert running.statistics.http_requests_by_status == {"408": 1}


async def test_a_caller_who_goes_while_sending_is_counted(models: ModelSlot) -> None:
    async with served(models) as running:
        _, writer = await asyncio.open_connection(*running.address)
        writer.write(
            b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await wait_until(lambda: running.statistics.http_requests_by_status == {"499": 1}, "it is counted")


class OneKey:
    """The keys of a server, of which there is one."""

    def check(self, presented: str | None) -> Caller:
        if presented != "secret":
            raise Unauthenticated("a key that is known must be given")
        return Caller(name="one", rights=ALL_RIGHTS - {Right.OPERATE})


class TestKeys:
    async def test_a_key_without_the_right_is_forbidden(self, models: ModelSlot) -> None:
        async with served(models, api_keys=OneKey()) as running:
            response = await running.client.get("/v1/status", headers={"x-api-key": "secret"})
            assert response.status_code == 403
            assert response.json()["error"] == {
                "code": 403,
                "status": "PERMISSION_DENIED",
                "message": "the key of one lacks the right operate",
            }
            assert (await running.client.get("/openapi.json", headers={"x-api-key": "secret"})).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [{"authorization": "Bearer secret"}, {"authorization": "bearer secret"}, {"x-api-key": "secret"}],
        ids=str,
    )
    async def test_a_known_key_is_let_in(self, models: ModelSlot, headers: dict[str, str]) -> None:
        async with served(models, api_keys=OneKey()) as running:
            assert (await running.client.post(RECOMMEND, json={}, headers=headers)).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}, {"x-api-key": "wrong"}],
        ids=str,
    )
    async def test_nobody_else_is(self, models: ModelSlot, headers: dict[str, str]) -> None:
        async with served(models, api_keys=OneKey()) as running:
            for method, path in [
                ("POST", RECOMMEND),
                ("POST", "/v1/similar-items"),
                ("GET", "/v1/status"),
                ("GET", "/schemas/error.json"),
                ("GET", "/openapi.json"),
            ]:
                response = await running.client.request(method, path, headers=headers)
                assert response.status_code == 401, path
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.json()["error"]["status"] == "UNAUTHENTICATED"

    async def test_probes_need_none(self, models: ModelSlot) -> None:
        async with served(models, api_keys=OneKey()) as running:
            assert (await running.client.get("/healthz")).status_code == 200
            assert (await running.client.get("/readyz")).status_code == 200

    async def test_openapi_says_so(self, models: ModelSlot) -> None:
        async with served(models, api_keys=OneKey()) as running:
            document = (await running.client.get("/openapi.json", headers={"x-api-key": "secret"})).json()
        assert document["paths"][RECOMMEND]["post"]["security"] == [{"bearer": []}, {"apiKey": []}]
        assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}
        assert "401" in document["paths"][RECOMMEND]["post"]["responses"]
        assert "security" not in document["paths"]["/healthz"]["get"]


class TestStopping:
    async def test_a_request_in_flight_is_answered(self, models: ModelSlot, tmp_path: Path) -> None:
        async with valkey(tmp_path) as store, served(models, store_url=store.url) as running:
            store.pause()
            call = asyncio.ensure_future(running.client.post(RECOMMEND, json={"user_id": "u"}))
            await wait_until(lambda: running.admission.in_flight == 1, "the request is admitted")
            stopping = asyncio.ensure_future(running.server.stop(grace_seconds=PATIENCE_SECONDS))

            async def refused() -> bool:
                try:
                    _, writer = await asyncio.open_connection(*running.address)
                except ConnectionRefusedError:
                    return True
                writer.close()
                return False

            await wait_until(refused, "new connections are refused")
            assert not stopping.done()
            store.resume()
            response = await call
            await stopping
        assert response.status_code == 200
        assert response.headers["connection"] == "close"

    async def test_one_that_outlives_the_grace_is_told(self, models: ModelSlot, tmp_path: Path) -> None:
        async with valkey(tmp_path) as store, served(models, store_url=store.url) as running:
            store.pause()
            call = asyncio.ensure_future(running.client.post(RECOMMEND, json={"user_id": "u"}))
            await wait_until(lambda: running.admission.in_flight == 1, "the request is admitted")
            await running.server.stop(grace_seconds=0.01)
            response = await call
            store.resume()
            assert running.admission.in_flight == 0
        assert response.status_code == 503
        assert response.json()["error"]["message"] == "the server is stopping"


class TestPorts:
    async def test_a_taken_port_is_named(self, models: ModelSlot) -> None:
        async with served(models) as running:
            port = running.server.port
            with pytest.raises(PortUnavailable, match=f"127.0.0.1:{port} for HTTP"):
                HttpServer(_nothing, host="127.0.0.1", port=port, statistics=Statistics())

    async def test_workers_may_share_one(self) -> None:
        first = HttpServer(_nothing, host="127.0.0.1", port=0, statistics=Statistics(), reuse_port=True)
        second = HttpServer(_nothing, host="127.0.0.1", port=first.port, statistics=Statistics(), reuse_port=True)
        assert second.port == first.port
        await first.stop(grace_seconds=0)
        await second.stop(grace_seconds=0)


class TestTls:
    async def test_https_with_the_certificate_of_the_settings(self, models: ModelSlot, tmp_path: Path) -> None:
        authority = Authority()
        certificate, key = authority.issue().write(tmp_path)
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        async with (
            served(models, certificates=Certificates(TlsFiles(certificate=certificate, key=key))) as running,
            httpx.AsyncClient(verify=context) as client,
        ):
            response = await client.get(f"https://127.0.0.1:{running.server.port}/healthz")
        assert response.status_code == 200

    async def test_a_handshake_that_began_before_the_server_stops_is_ended_and_its_request_answered(
        self, models: ModelSlot, tmp_path: Path
    ) -> None:
        """A busy machine may take longer for the handshake than an idle connection is given to leave."""
        authority = Authority()
        certificate, key = authority.issue().write(tmp_path)
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        async with served(models, certificates=Certificates(TlsFiles(certificate=certificate, key=key))) as running:
            connection = socket.create_connection(running.address)
            try:
                await wait_until(lambda: len(running.server._connections) == 1, "the connection is accepted")
                stopping = asyncio.ensure_future(running.server.stop(grace_seconds=PATIENCE_SECONDS))
                await asyncio.sleep(0.7)
                assert not stopping.done()
                reader, writer = await asyncio.open_connection(
                    sock=connection, ssl=context, server_hostname="127.0.0.1"
                )
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n")
                answer = await reader.read()
                writer.close()
                await stopping
            finally:
                connection.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close\r\n" in answer.lower()

    async def test_a_handshake_that_does_not_end_holds_no_server_for_long(
        self, models: ModelSlot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_module, "_HANDSHAKE_SECONDS", 0.3)
        certificate, key = Authority().issue().write(tmp_path)
        async with served(models, certificates=Certificates(TlsFiles(certificate=certificate, key=key))) as running:
            with socket.create_connection(running.address) as connection:
                await wait_until(lambda: len(running.server._connections) == 1, "the connection is accepted")
                async with asyncio.timeout(PATIENCE_SECONDS / 2):
                    await running.server.stop(grace_seconds=PATIENCE_SECONDS)
                assert len(running.server._connections) == 0
                assert await asyncio.to_thread(connection.recv, 1) == b""

    async def test_authorities_of_clients_are_replaced_while_the_server_runs(
        self, models: ModelSlot, tmp_path: Path
    ) -> None:
        """Also for a client that keeps a session of the old authority's time."""
        server, old, new = Authority(), Authority("old"), Authority("new")
        certificate, key = server.issue().write(tmp_path)
        (tmp_path / "ca.crt").write_bytes(old.certificate)
        certificates = Certificates(TlsFiles(certificate=certificate, key=key, client_ca=tmp_path / "ca.crt"))
        contexts = [client_context(server, authority, tmp_path) for authority in (old, new)]
        async with served(models, certificates=certificates) as running:
            assert [await asyncio.to_thread(status, running.server.port, context) for context in contexts] == [200, 0]
            (tmp_path / "ca.crt").write_bytes(new.certificate)
            assert certificates.reload_if_changed()
            assert [await asyncio.to_thread(status, running.server.port, context) for context in contexts] == [0, 200]
            server.issue("second").write(tmp_path)
            assert certificates.reload_if_changed()
            assert [await asyncio.to_thread(status, running.server.port, context) for context in contexts] == [0, 200]


_SESSIONS: dict[ssl.SSLContext, ssl.SSLSession | None] = {}


def client_context(server: Authority, authority: Authority, folder: Path) -> ssl.SSLContext:
    """The context of a client whose certificate the authority has signed."""
    context = ssl.create_default_context(cadata=server.certificate.decode())
    context.check_hostname = False
    pair = authority.issue("client")
    (folder / "client.pem").write_bytes(pair.certificate + pair.key)
    context.load_cert_chain(folder / "client.pem")
    return context


def status(port: int, context: ssl.SSLContext) -> int:
    """The status of a request on a new connection, which resumes the last session; 0 if the server refuses it."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as raw,
            context.wrap_socket(raw, session=_SESSIONS.get(context)) as connection,
        ):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = connection.recv(1 << 16)
            _SESSIONS[context] = connection.session
            return int(answer.split()[1]) if answer else 0
    except (ssl.SSLError, ConnectionError):
        return 0


async def _nothing(scope: object, receive: object, send: object) -> None:
    raise AssertionError("nobody asks it")

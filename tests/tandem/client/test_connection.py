"""Addresses, credentials and load balancing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tandem.client import AsyncTandemClient, InvalidArgument, TandemClient, Unavailable
from tandem.client.connection import Endpoint, endpoint
from tests.support.certificates import Authority
from tests.support.serving import wait_until
from tests.tandem.client.both_clients import connected
from tests.tandem.client.scripted_server import answers, scripted


def endpoint_of(address: str, **changes: Any) -> Endpoint:
    nothing = dict.fromkeys(("api_key", "root_certificates", "client_certificate", "client_key"))
    return endpoint(address, **{**nothing, "insecure": False, "keepalive_seconds": 20.0, **changes})


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("grpc://recommender:50051", "dns:///recommender:50051"),
        ("grpcs://recommender.shop.svc.cluster.local:443", "dns:///recommender.shop.svc.cluster.local:443"),
        ("127.0.0.1:50051", "dns:///127.0.0.1:50051"),
        ("grpc://[::1]:50051", "dns:///[::1]:50051"),
        ("dns:///recommender:50051", "dns:///recommender:50051"),
        ("grpc://ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("unix:/run/tandem.sock", "unix:/run/tandem.sock"),
    ],
)
def test_addresses(address: str, target: str) -> None:
    assert endpoint_of(address).target == target


@pytest.mark.process
async def test_tls_to_a_server_in_plaintext_is_named() -> None:
    async with (
        scripted(answers()) as server,
        AsyncTandemClient(f"grpcs://{server.address.removeprefix('grpc://')}", deadline_ms=5_000) as client,
    ):
        with pytest.raises(Unavailable, match=r"the server does not speak TLS; grpc://host:port"):
            await client.recommend("u")


@pytest.mark.parametrize(
    ("address", "insecure", "plaintext"),
    [("grpc://a:1", False, True), ("a:1", True, True), ("a:1", False, False), ("grpcs://a:1", False, False)],
)
def test_plaintext_is_asked_for(address: str, insecure: bool, plaintext: bool) -> None:
    assert (endpoint_of(address, insecure=insecure).credentials is None) is plaintext


@pytest.mark.parametrize(
    "address", ["", "recommender", "http://recommender:1", "grpc://h:65536", "grpc://a:1/path", "a b:1", "grpc://:1"]
)
def test_an_invalid_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"^address: "):
        TandemClient(address)


@pytest.mark.parametrize(
    ("address", "settings", "message"),
    [
        ("grpcs://a:1", {"insecure": True}, "insecure: "),
        ("grpc://a:1", {"root_certificates": b"pem"}, "root_certificates"),
        ("grpcs://a:1", {"client_certificate": b"pem"}, "client_certificate and client_key"),
        ("grpcs://a:1", {"client_key": b"pem"}, "client_certificate and client_key"),
        ("grpc://a:1", {"api_key": ""}, "api_key: "),
        ("grpc://a:1", {"api_key": "line\nbreak"}, "api_key: "),
        ("grpc://a:1", {"deadline_ms": 0}, "deadline_ms: "),
        ("grpc://a:1", {"deadline_ms": float("nan")}, "deadline_ms: "),
        ("grpc://a:1", {"hedge_after_ms": -1}, "hedge_after_ms: "),
        ("grpc://a:1", {"keepalive_seconds": 0}, "keepalive_seconds: "),
    ],
)
def test_invalid_settings_are_named(address: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TandemClient(address, **settings)


def test_a_certificate_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"^root_certificates: .*No such file .*missing\.pem"):
        TandemClient("grpcs://a:1", root_certificates=tmp_path / "missing.pem")


def test_the_key_is_not_printed() -> None:
    assert "secret" not in repr(endpoint_of("grpc://a:1", api_key="secret"))


def test_the_async_client_wants_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncTandemClient("grpc://a:1")


@pytest.mark.process
async def test_the_key_is_a_bearer_token(kind: str) -> None:
    async with scripted(answers()) as server, connected(kind, server.address, api_key="key-1") as client:
        await client.recommend("u")
        assert server.attempts[0].metadata["authorization"] == "Bearer key-1"


@pytest.mark.process
async def test_no_key_no_token(kind: str) -> None:
    async with scripted(answers()) as server, connected(kind, server.address) as client:
        await client.recommend("u")
        assert "authorization" not in server.attempts[0].metadata


@pytest.mark.process
@pytest.mark.parametrize("as_files", [False, True], ids=["bytes", "files"])
async def test_both_sides_present_certificates(kind: str, as_files: bool, tmp_path: Path) -> None:
    authority = Authority()
    client_pair, server_pair = authority.issue("client"), authority.issue("server")
    credentials = grpc.ssl_server_credentials(
        [(server_pair.key, server_pair.certificate)], root_certificates=authority.certificate, require_client_auth=True
    )
    pem: dict[str, Any] = {
        "root_certificates": authority.certificate,
        "client_certificate": client_pair.certificate,
        "client_key": client_pair.key,
    }
    if as_files:
        for name, content in pem.items():
            (tmp_path / name).write_bytes(content)
        pem = {
            "root_certificates": str(tmp_path / "root_certificates"),
            "client_certificate": tmp_path / "client_certificate",
            "client_key": tmp_path / "client_key",
        }
    async with (
        scripted(answers(model_version="m"), credentials=credentials) as server,
        connected(kind, f"grpcs://127.0.0.1:{server.port}", **pem) as client,
    ):
        assert (await client.recommend("u")).model_version == "m"


@pytest.mark.process
async def test_a_server_of_another_authority_is_not_trusted(kind: str) -> None:
    server_pair = Authority("theirs").issue()
    credentials = grpc.ssl_server_credentials([(server_pair.key, server_pair.certificate)])
    async with (
        scripted(answers(), credentials=credentials) as server,
        connected(kind, f"127.0.0.1:{server.port}", root_certificates=Authority("ours").certificate) as client,
    ):
        with pytest.raises(Unavailable):
            await client.recommend("u")
        assert server.attempts == []


@pytest.mark.process
async def test_a_silently_dead_connection_is_replaced(kind: str) -> None:
    async with (
        scripted(answers()) as server,
        proxy_to(server.port) as proxy,
        connected(kind, f"grpc://127.0.0.1:{proxy.port}", keepalive_seconds=1) as client,
    ):
        await client.recommend("before")
        proxy.drop_data()
        await client.recommend("after")
        assert [attempt.request.user_id for attempt in server.attempts] == ["before", "after"]


class Proxy:
    """A TCP proxy whose connections can be made to drop all data, like connections to a machine that is down."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._num_drops = 0

    def drop_data(self) -> None:
        """Drops all further data on existing connections; new connections work."""
        self._num_drops += 1

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            await asyncio.gather(self._copy(reader, target_writer), self._copy(target_reader, writer))
        finally:
            writer.close()
            target_writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened_at = self._num_drops
        while data := await reader.read(1 << 16):
            if self._num_drops == opened_at:
                writer.write(data)
        writer.close()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.carry, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy


@pytest.mark.process
async def test_every_address_gets_its_share(kind: str) -> None:
    async with scripted(answers()) as first, scripted(answers()) as second:
        address = f"grpc://ipv4:127.0.0.1:{first.port},127.0.0.1:{second.port}"
        async with connected(kind, address) as client:

            async def both_asked() -> bool:
                await client.recommend("u")
                return bool(first.attempts and second.attempts)

            await wait_until(both_asked, "both servers are asked")
            before = len(first.attempts), len(second.attempts)
            for _ in range(10):
                await client.recommend("u")
            assert (len(first.attempts) - before[0], len(second.attempts) - before[1]) == (5, 5)

"""Addresses, credentials and load balancing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from tandem.client import AsyncTandemClient, TandemClient, Unavailable
from tandem.client.connection import Endpoint, endpoint
from tests.client.both_clients import connected
from tests.client.scripted_server import answers, scripted
from tests.support.certificates import Authority
from tests.support.serving import wait_until


def reached(address: str, **changes: Any) -> Endpoint:
    nothing = dict.fromkeys(("api_key", "root_certificates", "client_certificate", "client_key"))
    return endpoint(address, **{**nothing, "insecure": False, **changes})


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
    assert reached(address).target == target


@pytest.mark.parametrize(
    ("address", "insecure", "plaintext"),
    [("grpc://a:1", False, True), ("a:1", True, True), ("a:1", False, False), ("grpcs://a:1", False, False)],
)
def test_plaintext_is_asked_for(address: str, insecure: bool, plaintext: bool) -> None:
    assert (reached(address, insecure=insecure).credentials is None) is plaintext


@pytest.mark.parametrize(
    "address", ["", "recommender", "http://recommender:1", "grpc://a:1/path", "a b:1", "grpc://:1"]
)
def test_an_address_that_is_none(address: str) -> None:
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
    ],
)
def test_settings_that_cannot_be_meant_are_named(address: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TandemClient(address, **settings)


def test_a_certificate_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TandemClient("grpcs://a:1", root_certificates=tmp_path / "missing.pem")


def test_the_key_is_not_printed() -> None:
    assert "secret" not in repr(reached("grpc://a:1", api_key="secret"))


def test_the_async_client_wants_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncTandemClient("grpc://a:1")


async def test_the_key_is_a_bearer_token(kind: str) -> None:
    async with scripted(answers()) as server, connected(kind, server.address, api_key="key-1") as client:
        await client.recommend("u")
        assert server.attempts[0].metadata["authorization"] == "Bearer key-1"


async def test_no_key_no_token(kind: str) -> None:
    async with scripted(answers()) as server, connected(kind, server.address) as client:
        await client.recommend("u")
        assert "authorization" not in server.attempts[0].metadata


@pytest.mark.parametrize("as_files", [False, True], ids=["bytes", "files"])
async def test_both_sides_show_certificates(kind: str, as_files: bool, tmp_path: Path) -> None:
    authority = Authority()
    ours, theirs = authority.issue("client"), authority.issue("server")
    credentials = grpc.ssl_server_credentials(
        [(theirs.key, theirs.certificate)], root_certificates=authority.certificate, require_client_auth=True
    )
    pem: dict[str, Any] = {
        "root_certificates": authority.certificate,
        "client_certificate": ours.certificate,
        "client_key": ours.key,
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


async def test_a_server_of_another_authority_is_not_trusted(kind: str) -> None:
    theirs = Authority("theirs").issue()
    credentials = grpc.ssl_server_credentials([(theirs.key, theirs.certificate)])
    async with (
        scripted(answers(), credentials=credentials) as server,
        connected(kind, f"127.0.0.1:{server.port}", root_certificates=Authority("ours").certificate) as client,
    ):
        with pytest.raises(Unavailable):
            await client.recommend("u")
        assert server.attempts == []


async def test_every_address_gets_its_share(kind: str) -> None:
    async with scripted(answers()) as one, scripted(answers()) as other:
        address = f"grpc://ipv4:127.0.0.1:{one.port},127.0.0.1:{other.port}"
        async with connected(kind, address) as client:

            async def both_asked() -> bool:
                await client.recommend("u")
                return bool(one.attempts and other.attempts)

            await wait_until(both_asked, "both servers are asked")
            before = len(one.attempts), len(other.attempts)
            for _ in range(10):
                await client.recommend("u")
            assert (len(one.attempts) - before[0], len(other.attempts) - before[1]) == (5, 5)

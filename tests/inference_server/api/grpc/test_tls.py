"""TLS and mutual TLS over gRPC, with certificates that are replaced while the server runs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from inference_server.core.settings import TlsFiles
from inference_server.security.files import Security
from inference_server.security.tls import Certificates
from inference_server.telemetry.statistics import Statistics
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.api.grpc.served import served, stub_of
from tests.support.certificates import Authority, Pair, common_name
from tests.support.serving import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def stranger() -> Authority:
    return Authority("another authority")


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> TlsFiles:
    certificate, key = authority.issue("first").write(tmp_path)
    return TlsFiles(certificate=certificate, key=key)


@pytest.fixture
def mutual(files: TlsFiles, authority: Authority, tmp_path: Path) -> TlsFiles:
    client_ca = tmp_path / "ca.crt"
    client_ca.write_bytes(authority.certificate)
    return TlsFiles(certificate=files.certificate, key=files.key, client_ca=client_ca)


def credentials(authority: Authority, client: Pair | None = None) -> grpc.ChannelCredentials:
    key, certificate = (None, None) if client is None else (client.key, client.certificate)
    return grpc.ssl_channel_credentials(authority.certificate, key, certificate)


async def outcome(address: str, channel_credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """How one call on a new connection ends."""
    async with stub_of(address, channel_credentials) as stub:
        try:
            await stub.Recommend(pb.RecommendRequest(), timeout=PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def name_of_the_server(port: int, authority: Authority) -> str:
    """The common name that a new connection sees."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return common_name(certificate)


async def test_with_a_certificate_only_tls_is_served(
    files: TlsFiles, authority: Authority, stranger: Authority
) -> None:
    async with served(security=Security(certificates=Certificates(files))) as server:
        assert await outcome(server.address, credentials(authority)) is grpc.StatusCode.OK
        assert await outcome(server.address, None) is grpc.StatusCode.UNAVAILABLE, "plaintext"
        assert await outcome(server.address, credentials(stranger)) is grpc.StatusCode.UNAVAILABLE, "unknown authority"
        assert server.servicer.num_started == 1


async def test_with_a_client_ca_clients_must_present_a_certificate_of_it(
    mutual: TlsFiles, authority: Authority, stranger: Authority
) -> None:
    async with served(security=Security(certificates=Certificates(mutual))) as server:
        known = credentials(authority, authority.issue("client"))
        assert await outcome(server.address, known) is grpc.StatusCode.OK
        assert await outcome(server.address, credentials(authority)) is grpc.StatusCode.UNAVAILABLE, "none"
        foreign = credentials(authority, stranger.issue("client"))
        assert await outcome(server.address, foreign) is grpc.StatusCode.UNAVAILABLE, "another authority's"
        assert server.servicer.num_started == 1


@pytest.fixture
async def reloading(mutual: TlsFiles) -> AsyncIterator[tuple[Security, Statistics]]:
    security, statistics = Security(certificates=Certificates(mutual)), Statistics()
    watching = asyncio.create_task(security.keep_current(statistics, poll_seconds=0.01))
    yield security, statistics
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_certificates_are_replaced_while_the_server_runs(
    files: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    security, statistics = Security(certificates=Certificates(files)), Statistics()
    watching = asyncio.create_task(security.keep_current(statistics, poll_seconds=0.01))
    async with (
        served(security=security) as server,
        stub_of(server.address, credentials(authority)) as stub,
    ):
        await stub.Recommend(pb.RecommendRequest())
        assert await name_of_the_server(server.port, authority) == "first"

        authority.issue("second").write(tmp_path)
        await wait_until(lambda: statistics.files_reloaded["tls_certificates"], "the new pair is taken")
        assert await name_of_the_server(server.port, authority) == "second"
        await stub.Recommend(pb.RecommendRequest())

        files.certificate.write_bytes(authority.issue("third").certificate)
        await wait_until(lambda: statistics.files_refused["tls_certificates"], "half a pair is refused")
        assert await name_of_the_server(server.port, authority) == "second"
        assert await outcome(server.address, credentials(authority)) is grpc.StatusCode.OK
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_the_client_ca_is_replaced_while_the_server_runs(
    mutual: TlsFiles, reloading: tuple[Security, Statistics], authority: Authority, stranger: Authority
) -> None:
    security, statistics = reloading
    assert mutual.client_ca is not None
    async with served(security=security) as server:
        foreign = credentials(authority, stranger.issue("client"))
        assert await outcome(server.address, foreign) is grpc.StatusCode.UNAVAILABLE
        mutual.client_ca.write_bytes(stranger.certificate)
        await wait_until(lambda: statistics.files_reloaded["tls_certificates"], "the new CA is taken")
        assert await outcome(server.address, foreign) is grpc.StatusCode.OK
        known = credentials(authority, authority.issue("client"))
        assert await outcome(server.address, known) is grpc.StatusCode.UNAVAILABLE

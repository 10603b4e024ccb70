"""TLS files: refusals at start, and reloads."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from inference_server.core.errors import SettingsError
from inference_server.core.settings import TlsFiles
from inference_server.security.files import Security
from inference_server.security.tls import Certificates, read_tls
from inference_server.telemetry.statistics import Statistics
from tests.support.certificates import Authority, common_name
from tests.support.serving import wait_until


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> TlsFiles:
    certificate, key = authority.issue().write(tmp_path)
    client_ca = tmp_path / "ca.crt"
    client_ca.write_bytes(authority.certificate)
    return TlsFiles(certificate=certificate, key=key, client_ca=client_ca)


def test_a_good_pair_is_read(files: TlsFiles, authority: Authority) -> None:
    material = read_tls(files)
    assert material.certificate == files.certificate.read_bytes()
    assert material.key == files.key.read_bytes()
    assert material.client_ca == authority.certificate


def refused(files: TlsFiles, variable: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{variable}: .*{reason}") as caught:
        read_tls(files)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
def test_missing_and_meaningless_files_are_named(files: TlsFiles, which: str) -> None:
    path: Path = getattr(files, which)
    path.write_bytes(b"\xff nothing of the kind")
    reason = "private key" if which == "key" else "no certificate"
    refused(files, f"TANDEM_TLS_{which.upper()}", f"{path} .*{reason}")
    path.write_bytes(b"")
    refused(files, f"TANDEM_TLS_{which.upper()}", f"{path} .*{reason}")
    path.unlink()
    refused(files, f"TANDEM_TLS_{which.upper()}", f"{path}: No such file")


def test_the_key_of_another_certificate_is_refused(files: TlsFiles, authority: Authority) -> None:
    files.key.write_bytes(authority.issue().key)
    refused(files, "TANDEM_TLS_KEY", "does not belong to")


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(files: TlsFiles) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a password"),
    )
    files.key.write_bytes(encrypted)
    refused(files, "TANDEM_TLS_KEY", "unencrypted")


async def test_a_bad_pair_is_refused_until_it_is_a_pair_again(files: TlsFiles, authority: Authority) -> None:
    security, statistics = Security(certificates=Certificates(files)), Statistics()
    assert security.certificates is not None
    old, new = security.certificates.current, authority.issue("renewed")
    watching = asyncio.create_task(security.keep_current(statistics, poll_seconds=0.01))
    files.certificate.write_bytes(new.certificate)
    await wait_until(lambda: statistics.files_refused["tls_certificates"] == 1, "half a pair is refused")
    assert security.certificates.current is old
    files.key.write_bytes(new.key)
    await wait_until(lambda: statistics.files_reloaded["tls_certificates"] == 1, "the pair is taken")
    assert security.certificates.current.certificate == new.certificate
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.process
async def test_a_server_on_the_standard_librarys_ssl_can_follow(files: TlsFiles, authority: Authority) -> None:
    certificates = Certificates(files)
    context = certificates.following_context()

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def name_of_the_server(port: int) -> str:
        client = ssl.create_default_context(cadata=authority.certificate.decode())
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return common_name(certificate)

    async with await asyncio.start_server(close, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        assert await name_of_the_server(port) == "127.0.0.1"
        authority.issue("renewed").write(files.certificate.parent)
        assert certificates.reload_if_changed()
        assert await name_of_the_server(port) == "renewed"

"""The port of metrics with TLS and with a key."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tandem.ops.metrics_access import AccessFiles, AccessFilesError
from tandem.ops.metrics_server import MetricsServer
from tests.support.certificates import Authority

pytestmark = pytest.mark.process


def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


@contextmanager
def serving(**files: Path) -> Iterator[int]:
    server = MetricsServer(answer, host="127.0.0.1", port=0, files=AccessFiles(**files))
    try:
        yield server.port
    finally:
        server.close()


def get(
    port: int, path: str, *, key: str | None = None, authority: Authority | None = None, method: str = "GET"
) -> tuple[int, bytes]:
    connection: http.client.HTTPConnection
    if authority is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    else:
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    try:
        connection.request(method, path, headers={} if key is None else {"authorization": key})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_metrics_need_the_key_and_health_needs_none(tmp_path) -> None:
    bearer = tmp_path / "key"
    bearer.write_text("scraper-key-1\n")
    with serving(bearer=bearer) as port:
        assert get(port, "/metrics", key="Bearer scraper-key-1") == (200, b"/metrics")
        assert get(port, "/healthz") == (200, b"/healthz")
        for wrong in (None, "", "scraper-key-1", "Bearer ", "Bearer scraper-key-2", "Basic scraper-key-1"):
            assert get(port, "/metrics", key=wrong) == (401, b"missing or wrong key\n")
        assert get(port, "/metrics", method="HEAD")[0] == 401
        bearer.write_text("scraper-key-2")
        assert get(port, "/metrics", key="Bearer scraper-key-1")[0] == 401
        assert get(port, "/metrics", key="Bearer scraper-key-2")[0] == 200
        for unusable in (lambda: bearer.write_text(""), bearer.unlink):
            unusable()
            assert get(port, "/metrics", key="Bearer scraper-key-2")[0] == 401
            assert get(port, "/metrics", key="Bearer ")[0] == 401


def test_a_renewed_certificate_is_used_and_a_half_written_one_is_not(tmp_path) -> None:
    before, after = Authority("before"), Authority("after")
    certificate, private_key = before.issue().write(tmp_path)
    with serving(certificate=certificate, private_key=private_key) as port:
        # Connections that never begin their handshake keep nobody waiting.
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        assert get(port, "/metrics", authority=before) == (200, b"/metrics")
        with pytest.raises(ssl.SSLCertVerificationError):
            get(port, "/metrics", authority=after)
        with pytest.raises((OSError, http.client.HTTPException)):
            get(port, "/metrics")
        certificate.write_bytes(b"half")
        assert get(port, "/metrics", authority=before)[0] == 200
        after.issue().write(tmp_path)
        assert get(port, "/metrics", authority=after)[0] == 200
        for connection in idle:
            connection.close()


def test_files_that_cannot_be_used_are_named_at_the_start(tmp_path) -> None:
    certificate, private_key = Authority().issue().write(tmp_path / "one")
    _, other_key = Authority().issue().write(tmp_path / "other")
    empty = tmp_path / "empty"
    empty.touch()
    for files, words in (
        ({"certificate": certificate, "private_key": other_key}, f"{certificate} and {other_key} are not"),
        ({"certificate": certificate, "private_key": empty}, f"{certificate} and {empty} are not"),
        ({"bearer": empty}, f"{empty} holds no key"),
        ({"bearer": tmp_path / "none"}, f"{tmp_path}/none: No such file"),
    ):
        with pytest.raises(AccessFilesError, match=words), serving(**files):
            pass
    assert private_key.exists()

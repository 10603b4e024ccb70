"""A store that refuses is named in its own words, and nothing that is said holds a password."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from deploy.local.ports import free_port
from feature_sync.core.errors import StoreAway, StoreError
from feature_sync.store.connection import StoreConnection
from feature_sync.store.online_store import OnlineStore
from tandem.ops.store_words import diagnosed
from tests.support.stores import PASSWORD, busy, client_of, http_server, tls_in_front_of, valkey_with

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with valkey_with(tmp_path_factory.mktemp("plain")) as port:
        yield port


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A store with a password, and a user `ann` who may do next to nothing."""
    with valkey_with(tmp_path_factory.mktemp("protected"), "--requirepass", PASSWORD) as port:
        with client_of(port, PASSWORD) as client:
            client.acl_setuser("ann", enabled=True, passwords=[f"+{PASSWORD}"], keys=["other*"], commands=["+get"])
        yield port


def code_of(error: Exception) -> str:
    return str(error).partition(": ")[2].partition(" ")[0]


def refusal(url: str) -> str:
    """What both clients of feature_sync say of a store that refuses a write."""
    with StoreConnection(url) as connection, pytest.raises(StoreError) as failure:
        connection.call("SET", "tandem/1/x", "1")
    with pytest.raises(StoreError) as other, OnlineStore(url, retry_seconds=0, vector_ttl_seconds=1) as store:
        store.mark_published("m", "f")
    for text in (str(failure.value), str(other.value)):
        assert "\n" not in text
        assert PASSWORD not in text
    assert (
        str(other.value).partition(": ")[2].partition(" ")[0] == str(failure.value).partition(": ")[2].partition(" ")[0]
    )
    return str(failure.value)


def test_a_password_that_is_missing_wrong_or_too_much(plain: int, protected: int) -> None:
    assert "NOAUTH Authentication required" in refusal(f"redis://127.0.0.1:{protected}/0")
    assert "WRONGPASS invalid username-password pair" in refusal(f"redis://:not-{PASSWORD}@127.0.0.1:{protected}/0")
    assert "called without any password configured" in refusal(f"redis://:{PASSWORD}@127.0.0.1:{plain}/0")
    assert "WRONGPASS" in refusal(f"redis://bob:{PASSWORD}@127.0.0.1:{plain}/0")


def test_a_user_without_the_right(protected: int) -> None:
    assert "NOPERM User ann has no permissions to run the" in refusal(f"redis://ann:{PASSWORD}@127.0.0.1:{protected}/0")


def test_a_database_that_does_not_exist(plain: int) -> None:
    assert "refused: ERR DB index is out of range" in refusal(f"redis://127.0.0.1:{plain}/99")


def test_a_server_that_says_why_and_hangs_up(tmp_path: Path) -> None:
    with valkey_with(tmp_path) as port, client_of(port) as client:
        client.config_set("maxclients", 1)
        assert diagnosed(f"redis://127.0.0.1:{port}/0") == "ERR max number of clients reached"
        assert "ERR max number of clients reached" in refusal(f"redis://127.0.0.1:{port}/0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--maxmemory", "1"), "OOM command not allowed when used memory > 'maxmemory'"),
        (("--min-replicas-to-write", "1"), "NOREPLICAS Not enough good replicas to write"),
        (("--replicaof", "127.0.0.1 1"), "it is a replica of 127.0.0.1:1 (role:slave)"),
        (("--cluster-enabled", "yes", "--cluster-port", str(free_port())), "it is a Redis Cluster (cluster_enabled:1)"),
    ],
)
def test_a_store_that_accepts_no_writes(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    with valkey_with(tmp_path, *options) as port:
        assert words in refusal(f"redis://127.0.0.1:{port}/0")


def test_a_store_that_is_busy(tmp_path: Path) -> None:
    with valkey_with(tmp_path, "--busy-reply-threshold", "50") as port:
        busy(port)
        assert "refused: BUSY " in refusal(f"redis://127.0.0.1:{port}/0")
        with client_of(port) as client:
            client.script_kill()


def test_what_is_no_store() -> None:
    with http_server() as port:
        assert "an HTTP server, not a Redis or Valkey" in refusal(f"redis://127.0.0.1:{port}/0")
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert "speaks HTTP/2 (gRPC)" in refusal(f"redis://127.0.0.1:{port}/0")
    finally:
        server.stop(None)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}/0"
        assert diagnosed(url) == "it accepts connections, and does not answer within 1 s"


def test_tls_on_one_side_only(plain: int, tmp_path: Path) -> None:
    assert diagnosed(f"rediss://127.0.0.1:{plain}/0") == (
        "the server speaks no TLS: begin the address with redis:// instead of rediss://"
    )
    with ExitStack() as stack:
        port, roots = stack.enter_context(tls_in_front_of(plain, tmp_path))
        assert diagnosed(f"redis://127.0.0.1:{port}/0") == (
            "the server speaks TLS: begin the address with rediss:// instead of redis://"
        )
        assert diagnosed(f"rediss://127.0.0.1:{port}/0") == "no TLS connection: unable to get local issuer certificate"
        assert diagnosed(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={roots}") is None


def test_a_store_that_answers_or_does_not_listen_has_nothing_to_add(plain: int) -> None:
    assert diagnosed(f"redis://127.0.0.1:{plain}/0") is None
    assert diagnosed("redis://127.0.0.1:1/0") is None
    assert diagnosed("unix:///nowhere/store.sock") is None
    with pytest.raises(StoreAway, match="Connection refused"), StoreConnection("redis://127.0.0.1:1/0") as store:
        store.call("PING")

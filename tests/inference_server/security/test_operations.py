"""A real server with security settings: the credentials that it asks for, and files that it cannot use."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from inference_server.security.api_keys import key_line
from inference_server.security.callers import Right
from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc
from tests.inference_server.supervisor.test_lifecycle import NO_STORE, SERVICE, grpcurl, run
from tests.support.certificates import Authority
from tests.support.secrets import secret
from tests.support.serving import PATIENCE_SECONDS, serve

pytestmark = pytest.mark.process

KEY, NEW_KEY = secret("the-key-of-the-shop"), secret("the-new-key-of-the-shop")


async def test_tls_and_keys_of_a_server_that_runs(tmp_path: Path, bundle: Bundle) -> None:
    authority, keys, ca = Authority(), tmp_path / "keys", tmp_path / "ca.crt"
    certificate, key = authority.issue().write(tmp_path)
    await asyncio.to_thread(ca.write_bytes, authority.certificate)
    await asyncio.to_thread(keys.write_text, key_line("shop", KEY))
    async with serve(
        tmp_path / "server",
        until_serving=False,
        bundle_path=bundle.directory,
        store_url=NO_STORE,
        tls_certificate=certificate,
        tls_key=key,
        api_keys_file=keys,
        log_level="debug",
    ) as server:
        await server.log("model_serving")
        address = f"127.0.0.1:{server.grpc_port}"

        async def ask(*options: str) -> tuple[int, str, str]:
            return await run(grpcurl(), *options, "-d", '{"num_items":3}', address, f"{SERVICE}/Recommend")

        status, output, errors = await ask("-cacert", str(ca), "-H", f"authorization: Bearer {KEY}")
        assert status == 0, errors
        assert len(json.loads(output)["items"]) == 3
        status, _, errors = await ask("-cacert", str(ca))
        assert status != 0
        assert "Unauthenticated" in errors, "reflection, which grpcurl asks first, needs a key too"
        status, _, errors = await ask("-plaintext", "-H", f"authorization: Bearer {KEY}", "-connect-timeout", "2")
        assert status != 0

        await asyncio.to_thread(keys.write_text, key_line("shop", NEW_KEY))
        await server.log("files_reloaded", what="api_keys")
        await asyncio.to_thread(keys.write_text, f"nonsense\n{key_line('shop', NEW_KEY, rights=[Right.READ])}")
        refused = await server.log("files_refused", what="api_keys")
        assert "line 1" in refused["reason"]
        async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority.certificate)) as channel:
            stub = pb_grpc.RecommendationServiceStub(channel)
            request = pb.RecommendRequest()
            await stub.Recommend(request, metadata=[("x-api-key", NEW_KEY)])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Recommend(request, metadata=[("x-api-key", KEY)])
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.DeleteItems(pb.DeleteItemsRequest(), metadata=[("x-api-key", NEW_KEY)])
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        metrics = await server.metrics()
        assert 'tandem_files_refused_total{what="api_keys"} 1.0' in metrics
        assert 'tandem_files_reloaded_total{what="api_keys"} 1.0' in metrics
        assert "tandem_unauthenticated_total 0.0" not in metrics
        assert 'tandem_caller_refused_total{caller="shop"} 1.0' in metrics
        assert not any(secret in json.dumps(server.logs) for secret in (KEY, NEW_KEY))


async def test_limits_and_channelz_are_settings(tmp_path: Path, bundle: Bundle) -> None:
    async with serve(
        tmp_path, bundle_path=bundle.directory, store_url=NO_STORE, max_request_bytes=2000, channelz="false"
    ) as server:
        await server.recommend(exclude_seen=True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.recommend(recent_item_ids=["item-1"] * 500)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        address = f"127.0.0.1:{server.grpc_port}"
        _, output, _ = await run(grpcurl(), "-plaintext", address, "list")
        assert SERVICE in output
        assert "channelz" not in output


async def test_a_collector_that_is_not_there_changes_no_answer(tmp_path: Path, bundle: Bundle) -> None:
    async with serve(
        tmp_path,
        bundle_path=bundle.directory,
        store_url=NO_STORE,
        otlp_endpoint="http://127.0.0.1:1",
        trace_sample_ratio=1,
    ) as server:
        assert len((await server.recommend()).items) == 10
        assert await server.stop() == 0
        assert server.unparsed == []


def program(*arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return subprocess.run(
        [sys.executable, "-m", "inference_server", *arguments],
        env={**kept, **{name: str(value) for name, value in variables.items()}},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


@pytest.mark.parametrize("variable", ["TANDEM_TLS_CERTIFICATE", "TANDEM_TLS_KEY", "TANDEM_TLS_CLIENT_CA"])
@pytest.mark.parametrize("state", ["missing", "meaningless"])
def test_unusable_files_of_tls_end_the_start_with_one_line(tmp_path: Path, variable: str, state: str) -> None:
    certificate, key = Authority().issue().write(tmp_path)
    paths = {
        "TANDEM_TLS_CERTIFICATE": certificate,
        "TANDEM_TLS_KEY": key,
        "TANDEM_TLS_CLIENT_CA": certificate,
        variable: tmp_path / "other",
    }
    if state == "meaningless":
        (tmp_path / "other").write_text("nothing of the kind")
    result = program("serve", **paths)
    assert result.returncode == 2
    assert result.stderr.startswith(f"inference_server: {variable}: {tmp_path / 'other'}")
    assert len(result.stderr.splitlines()) == 1


def test_an_unusable_file_of_keys_ends_the_start_with_one_line(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    for content, reason in ((None, "No such file"), ("shop:the-key-itself", "line 1")):
        if content is not None:
            keys.write_text(content)
        result = program("serve", TANDEM_API_KEYS_FILE=keys)
        assert result.returncode == 2
        assert result.stderr.startswith(f"inference_server: TANDEM_API_KEYS_FILE: {keys}: ")
        assert reason in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert "the-key-itself" not in result.stderr


def test_a_bundle_is_checked_while_keys_are_being_edited(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "keys").write_text("half a li")
    result = program("check", str(bundle.directory), "--json", TANDEM_API_KEYS_FILE=tmp_path / "keys")
    assert result.returncode == 0, result.stderr

"""Shutdown under load: no caller loses a call, whether a worker is replaced or the whole server ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from deploy.local.ports import free_port
from tandem.contract.bundle import Bundle
from tests.support.certificates import Authority
from tests.support.serving import PATIENCE_SECONDS, serve

pytestmark = pytest.mark.process

NO_STORE = f"redis://127.0.0.1:{free_port()}/0"


@asynccontextmanager
async def callers(
    grpc_port: int, http_port: int, lost: list[str], *, authority: Path | None = None
) -> AsyncIterator[None]:
    """Callers during the block; appends to `lost` what ended otherwise than answered or unable to connect.

    With the certificate of an authority, they call over TLS.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.callers", str(grpc_port), str(http_port)),
        *([] if authority is None else [str(authority)]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.stdout.readline() == b"calling\n"
        yield
        async with asyncio.timeout(PATIENCE_SECONDS):
            output, _ = await process.communicate(b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    ended = json.loads(output)
    assert all(ended.get(f"{kind} ok", 0) > 0 for kind in ("raw", "client", "http")), ended
    lost += [f"{number} {kind}" for kind, number in ended.items() if not kind.endswith((" ok", " nobody"))]


@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
async def test_no_call_is_lost_when_workers_are_replaced_and_the_server_ends(
    tmp_path: Path, bundle: Bundle, *, tls: bool
) -> None:
    settings: dict[str, object] = {}
    trusted = None
    if tls:
        authority = Authority()
        settings["tls_certificate"], settings["tls_key"] = authority.issue().write(tmp_path / "tls")
        trusted = tmp_path / "authority.crt"
        trusted.write_bytes(authority.certificate)
    lost: list[str] = []
    async with (
        serve(
            tmp_path,
            until_serving=False,
            bundle_path=bundle.directory,
            store_url=NO_STORE,
            workers=2,
            deadline_ms=10_000,
            **settings,
        ) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        await server.log("model_serving")
        await stack.enter_async_context(callers(server.grpc_port, server.http_port, lost, authority=trusted))
        await asyncio.sleep(1.0)
        for worker in (1, 2):
            pid = await server.worker_pid(worker)
            os.kill(pid, signal.SIGTERM)
            await server.log("worker_ended", worker=worker, pid=pid, exit_status=0)
            await server.log("worker_listening", worker=worker)
            await asyncio.sleep(0.5)
        assert await server.stop() == 0
        await asyncio.sleep(0.2)
    assert lost == []


async def no_message() -> AsyncIterator[bytes]:
    """Requests of a caller that begins a call and never sends its message."""
    await asyncio.Event().wait()
    yield b""


@pytest.mark.parametrize("method", ["Recommend", "GetServingStatus"])
async def test_a_caller_that_sends_no_message_costs_no_other_caller_its_call(
    tmp_path: Path, bundle: Bundle, method: str
) -> None:
    lost: list[str] = []
    async with (
        serve(tmp_path, bundle_path=bundle.directory, store_url=NO_STORE, deadline_ms=10_000) as server,
        callers(server.grpc_port, server.http_port, lost),
    ):
        stalled = server.channel.stream_unary(f"/tandem.v1.RecommendationService/{method}")(no_message())
        await asyncio.sleep(1.0)
        assert await server.stop() == 0
        await asyncio.sleep(0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stalled
        assert caught.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
    assert lost == []

"""One server, with a store, for all tests that only ask it over HTTP or gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tandem.contract.bundle import Bundle
from tests.support.serving import PATIENCE_SECONDS, Server, serve, valkey
from tests.support.tiny_bundle import state_of


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("http")
    async with valkey(folder / "valkey") as store:
        await store.put("known", state_of(["item-3", "item-14", "item-15"]))
        async with serve(folder, bundle_path=bundle.directory, store_url=store.url) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    address = f"http://127.0.0.1:{server.http_port}"
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_SECONDS) as made:
        yield made

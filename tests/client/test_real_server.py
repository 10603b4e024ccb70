"""Both clients against a real inference server process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from deploy.local.ports import free_port
from tandem.client import Filter, InvalidRequest, Source, Unavailable
from tests.client.both_clients import KINDS, connected
from tests.support.serving import PATIENCE_SECONDS, Server, serve
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One server for the whole module; its store is down, so that answers for known users are degraded."""
    folder = tmp_path_factory.mktemp("server")
    bundle = build_tiny_bundle(folder / "bundle", TinySpec())
    store_url = f"redis://127.0.0.1:{free_port()}/0"
    async with serve(folder / "data", bundle_path=bundle.directory, store_url=store_url) as server:
        yield server


def address(server: Server) -> str:
    return f"grpc://127.0.0.1:{server.grpc_port}"


async def test_a_visitor_gets_personal_answers(kind: str, server: Server) -> None:
    async with connected(kind, address(server)) as client:
        await client.wait_until_ready(PATIENCE_SECONDS)
        answer = await client.recommend(recent_item_ids=["item-1", "item-5"], num_items=7, explain=True)
    assert answer.source is Source.RETRIEVED
    assert len(set(answer.item_ids)) == 7
    assert not {"item-1", "item-5"} & set(answer.item_ids)
    assert answer.model_version == "tiny-1"
    assert answer.request_id
    assert [item.score for item in answer.items] == sorted((item.score for item in answer.items), reverse=True)
    reason = answer.items[0].reason
    assert reason is not None
    assert reason.source == "two_tower"


async def test_a_degraded_answer_is_an_answer(kind: str, server: Server) -> None:
    async with connected(kind, address(server)) as client:
        answer = await client.recommend("someone")
    assert answer.source is Source.POPULAR
    assert answer.degraded_reasons
    assert answer.items[0].reason is None


async def test_a_filter_is_kept(kind: str, server: Server) -> None:
    async with connected(kind, address(server)) as client:
        answer = await client.recommend(recent_item_ids=["item-1"], filter=Filter(include_categories=["rare"]))
    assert {int(item_id.removeprefix("item-")) % 10 for item_id in answer.item_ids} == {0}


async def test_a_refused_field_is_named(kind: str, server: Server) -> None:
    async with connected(kind, address(server)) as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.recommend(num_items=501)
    assert caught.value.field == "num_items"
    assert caught.value.description
    assert caught.value.num_attempts == 1


async def test_status(kind: str, server: Server) -> None:
    async with connected(kind, address(server)) as client:
        status = await client.status()
    assert status.model_version == status.manifest["model_version"] == "tiny-1"
    assert status.dependencies["store"] == "down"
    assert status.started_at is not None
    assert status.model_loaded_at is not None
    assert status.started_at <= status.model_loaded_at
    assert status.uptime_seconds > 0


async def test_a_server_without_a_model_is_unavailable(tmp_path: Path) -> None:
    registry = f"sqlite:///{tmp_path / 'empty.db'}"
    async with serve(tmp_path / "data", until_serving=False, registry_uri=registry) as server:
        for kind in KINDS:
            async with connected(kind, address(server)) as client:
                with pytest.raises(Unavailable, match="health is not SERVING"):
                    await client.wait_until_ready(0.2)
                with pytest.raises(Unavailable) as caught:
                    await client.recommend()
                assert caught.value.num_attempts == 3

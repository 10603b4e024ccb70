"""Both clients against a real inference server process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from deploy.local.ports import free_port
from inference_server.security.api_keys import key_line
from tandem.client import (
    Filter,
    InvalidArgument,
    InvalidRequest,
    NotFound,
    PageExpired,
    Query,
    Source,
    TandemError,
    Unauthenticated,
    Unavailable,
)
from tests.support.certificates import Authority
from tests.support.serving import PATIENCE_SECONDS, Server, serve
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle
from tests.tandem.client.both_clients import KINDS, connected

KEY = "the-key-of-the-shop"

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server for the whole module. Its store is down, so answers for known users are degraded."""
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


async def test_a_filter_is_applied(kind: str, server: Server) -> None:
    async with connected(kind, address(server)) as client:
        answer = await client.recommend(recent_item_ids=["item-1"], filter=Filter(include_categories=["rare"]))
    assert {int(item_id.removeprefix("item-")) % 10 for item_id in answer.item_ids} == {0}


async def test_pages_do_not_repeat_items(kind: str, server: Server) -> None:
    async with connected(kind, address(server)) as client:
        pages = client.pages(recent_item_ids=["item-1"], num_items=20, max_pages=4)
        item_ids = [item_id async for page in pages for item_id in page.item_ids]
    assert len(set(item_ids)) == len(item_ids) == 80


async def test_a_token_that_the_bundle_did_not_issue_has_expired(kind: str, server: Server) -> None:
    async with connected(kind, address(server)) as client:
        token = (await client.recommend(num_items=5)).next_page_token
        assert (await client.recommend(num_items=5, page_token=token)).items
        with pytest.raises(PageExpired):
            await client.recommend(num_items=5, page_token=token[::-1])


async def test_similar_items(kind: str, server: Server) -> None:
    async with connected(kind, address(server)) as client:
        answer = await client.similar_items(["item-1"], num_items=5, filter=Filter(exclude_categories=["rare"]))
        with pytest.raises(NotFound, match="no-such-item"):
            await client.similar_items(["no-such-item"])
    assert len(answer.items) == 5
    assert "item-1" not in answer.item_ids
    assert all(int(item_id.removeprefix("item-")) % 10 for item_id in answer.item_ids)


async def test_a_batch(kind: str, server: Server) -> None:
    requests = {f"id-{n}": Query(recent_item_ids=[f"item-{n}"], num_items=n) for n in range(1, 151)}
    requests["wrong"] = Query(num_items=501)
    async with connected(kind, address(server)) as client:
        outcomes = [outcome async for outcome in client.recommend_many(requests.items(), max_in_flight=100)]
    answers = dict(outcomes)
    refused = answers.pop("wrong")
    assert len(outcomes) == len(requests)
    assert isinstance(refused, InvalidRequest)
    assert refused.field == "num_items"
    assert refused.description
    assert not refused.description.startswith("num_items")
    assert {name: len(answer.items) for name, answer in answers.items()} == {f"id-{n}": n for n in range(1, 151)}


@pytest.mark.parametrize("in_bulk", [False, True])
async def test_several_queries_in_one_call(kind: str, server: Server, in_bulk: bool) -> None:
    queries = [Query(recent_item_ids=[f"item-{n}"], num_items=n) for n in range(1, 41)]
    queries[7] = Query(num_items=501)
    async with connected(kind, address(server)) as client:
        outcomes = await client.recommend_all(queries, in_bulk=in_bulk)
        refused = outcomes.pop(7)
        assert isinstance(refused, InvalidRequest)
        assert refused.field == "queries[7].request.num_items"
        assert refused.description == "must be in 0..500, is 501"
        assert [len(outcome.items) for outcome in outcomes if not isinstance(outcome, TandemError)] == [
            n for n in range(1, 41) if n != 8
        ]
        with pytest.raises(InvalidRequest) as caught:
            await client.recommend_all([])
        assert caught.value.field == "queries"
        with pytest.raises(InvalidArgument, match="queries"):
            await client.recommend_all("196")  # type: ignore[arg-type]


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


async def test_keys_and_certificates(tmp_path: Path) -> None:
    bundle = build_tiny_bundle(tmp_path / "bundle", TinySpec())
    authority, keys, trusted = Authority(), tmp_path / "keys", tmp_path / "ca.crt"
    certificate, key = authority.issue().write(tmp_path / "tls")
    client_pair = authority.issue("client")
    keys.write_text(key_line("shop", KEY))
    trusted.write_bytes(authority.certificate)
    async with serve(
        tmp_path / "data",
        until_serving=False,
        bundle_path=bundle.directory,
        tls_certificate=certificate,
        tls_key=key,
        tls_client_ca=trusted,
        api_keys_file=keys,
    ) as server:
        secure_address = f"grpcs://127.0.0.1:{server.grpc_port}"
        pem = {
            "root_certificates": trusted,
            "client_certificate": client_pair.certificate,
            "client_key": client_pair.key,
        }
        for kind in KINDS:
            async with connected(kind, secure_address, api_key=KEY, **pem) as client:
                await client.wait_until_ready(PATIENCE_SECONDS)
                assert len((await client.recommend()).items) == 10
            async with connected(kind, secure_address, api_key=f"not {KEY}", **pem) as client:
                with pytest.raises(Unauthenticated) as caught:
                    await client.recommend()
                assert caught.value.num_attempts == 1
                # grpc.aio may lose the status of a stream that ends during a write; the client says Unavailable then.
                with pytest.raises((Unauthenticated, Unavailable)):
                    _ = [outcome async for outcome in client.recommend_many([("id", Query())])]
            async with connected(kind, secure_address, api_key=KEY, root_certificates=trusted) as client:
                with pytest.raises(Unavailable):
                    await client.recommend()


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

"""Moving the alias while requests flow: a good bundle takes over, a broken one never does."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tandem.contract.bundle import Bundle
from tandem.contract.store import UserVector
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.defects import (
    DEFECTS,
    copy_of,
    flipped_byte_in_index,
    nan_item_vectors,
    nan_user_vectors,
    truncated_index,
    wrong_dimension,
)
from tests.support.serving import MlflowRegistry, Server, serve, valkey, wait_until
from tests.support.tiny_bundle import mean_vector, state_of

pytestmark = pytest.mark.process

ALIAS = "champion"


class Flow:
    """A steady flow of requests whose every answer is checked."""

    def __init__(self, server: Server) -> None:
        self.answers: list[pb.RecommendResponse] = []
        self._server = server
        self._users = (
            {"user_id": "known"},
            {"user_id": "with state of one"},
            {"user_id": "nobody"},
            {"user_id": "nobody", "recent_item_ids": ["one-5", "two-5"], "explain": True},
        )

    async def run(self) -> None:
        while True:
            for fields in self._users:
                response = await self._server.recommend(**fields)
                assert len(response.items) == 10
                assert list(response.degraded_reasons) == []
                prefixes = {item.item_id.split("-")[0] for item in response.items}
                assert prefixes == {response.model_version}
                because = {name for item in response.items for name in item.reason.because_item_ids}
                assert {name.split("-")[0] for name in because} <= {response.model_version}
                self.answers.append(response)
            assert await self._server.serving_status() == "SERVING"

    async def until_answered_by(self, model_version: str, *, more: int = 20) -> None:
        """Waits for at least `more` further answers, the last of them by `model_version`."""
        count = len(self.answers)
        await wait_until(
            lambda: len(self.answers) >= count + more and self.answers[-1].model_version == model_version,
            f"answers by {model_version}",
        )

    def versions_in_order(self) -> list[str]:
        versions: list[str] = []
        for response in self.answers:
            if not versions or versions[-1] != response.model_version:
                versions.append(response.model_version)
        return versions


@asynccontextmanager
async def flow(server: Server, connections: int = 4) -> AsyncIterator[list[Flow]]:
    flows = [Flow(server) for _ in range(connections)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.run()) for client in flows]
        yield flows
        for task in tasks:
            task.cancel()


async def test_the_alias_moves_under_load(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, second: Bundle
) -> None:
    number_one = registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(tmp_path / "server", registry_uri=registry.uri, model_name=model_name, store_url=store.url) as server,
    ):
        history = ["one-1", "two-2"]
        vectors = {
            "one": UserVector(1, mean_vector(first, ["one-1"])),
            "two": UserVector(1, mean_vector(second, ["two-2"])),
        }
        await store.put("known", state_of(history), vectors=vectors)
        await store.put("with state of one", state_of(["one-1"]))
        async with flow(server) as flows:
            await asyncio.gather(*(client.until_answered_by("one") for client in flows))
            number_two = registry.register(second.directory, model_name=model_name, model_version="two", alias=ALIAS)
            await asyncio.gather(*(client.until_answered_by("two") for client in flows))
            registry.move_alias(model_name, ALIAS, number_one)
            await asyncio.gather(*(client.until_answered_by("one") for client in flows))
        for client in flows:
            assert client.versions_in_order() == ["one", "two", "one"]
        await server.log("model_serving", model_version="two", registry_version=number_two)
        status = await server.status()
        assert (status.model_version, status.registry_version, status.variant) == ("one", number_one, ALIAS)
        assert status.bundles_refused == 0
        assert "tandem_bundle_swaps_total 3.0" in await server.metrics()
        assert sum("downloaded" in line["event"] for line in server.logs) == 2, "the way back needs no download"


async def test_a_request_in_flight_finishes_on_the_model_it_began_with(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, second: Bundle
) -> None:
    registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(
            tmp_path / "server",
            registry_uri=registry.uri,
            model_name=model_name,
            store_url=store.url,
            deadline_ms=60_000,
        ) as server,
    ):
        await store.put("u", state_of(["one-1", "two-2"]))
        store.pause()
        call = asyncio.create_task(server.recommend(user_id="u"))

        async def waits_for_the_store() -> bool:
            return "tandem_batch_requests_count 1.0" in await server.metrics()

        await wait_until(waits_for_the_store, "the request waits for the store")
        registry.register(second.directory, model_name=model_name, model_version="two", alias=ALIAS)
        await server.log("model_serving", model_version="two")
        assert (await server.recommend()).model_version == "two"
        store.resume()
        response = await call
        assert response.model_version == "one"
        assert {item.item_id.split("-")[0] for item in response.items} == {"one"}


async def test_broken_bundles_are_refused_while_the_old_one_serves(  # noqa: PLR0917 - fixtures, given by name
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, second: Bundle, bundle: Bundle
) -> None:
    registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(tmp_path / "server", registry_uri=registry.uri, model_name=model_name, store_url=store.url) as server,
        flow(server, connections=1) as flows,
    ):
        await flows[0].until_answered_by("one")
        broken_ones = [flipped_byte_in_index, wrong_dimension, nan_item_vectors, nan_user_vectors, truncated_index]
        for refusals, defect in enumerate(broken_ones, start=1):
            kind, words = DEFECTS[defect]
            broken = copy_of(bundle.directory, tmp_path / defect.__name__)
            defect(broken)
            number = registry.register(broken, model_name=model_name, model_version="tiny-1", alias=ALIAS)
            line = await server.log("bundle_refused", registry_version=number)
            assert line["reason_kind"] == kind
            assert words in line["reason"]
            await flows[0].until_answered_by("one")
            status = await server.status()
            assert status.bundles_refused == refusals
            assert words in status.last_refusal
            kept = list(status.refused_bundles)
            assert len(kept) == refusals, "the reasons of those before stay"
            assert kept[0].reason == status.last_refusal
            assert kept[0].registry_version == number
            assert kept[0].refused_at.seconds > status.started_at.seconds - 60
            assert status.model_version == "one"
        text = await server.metrics()
        assert 'tandem_bundle_refused_total{reason_kind="corrupt"} 3.0' in text
        assert 'tandem_bundle_refused_total{reason_kind="incompatible"} 1.0' in text
        assert 'tandem_bundle_refused_total{reason_kind="golden_queries"} 1.0' in text
        registry.register(second.directory, model_name=model_name, model_version="two", alias=ALIAS)
        await flows[0].until_answered_by("two")
        assert flows[0].versions_in_order() == ["one", "two"]
        refused = [line["registry_version"] for line in server.logs if line["event"] == "bundle_refused"]
        assert len(refused) == len(set(refused)) == len(broken_ones), "none was tried twice"


async def test_a_broken_bundle_is_tried_again_after_the_alias_has_been_elsewhere(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, bundle: Bundle
) -> None:
    number_one = registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    broken = copy_of(bundle.directory, tmp_path / "broken")
    truncated_index(broken)
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(tmp_path / "server", registry_uri=registry.uri, model_name=model_name, store_url=store.url) as server,
    ):
        number_two = registry.register(broken, model_name=model_name, model_version="tiny-1", alias=ALIAS)
        await server.log("bundle_refused", registry_version=number_two)
        registry.move_alias(model_name, ALIAS, number_one)
        await server.log("alias_left_refused_bundle")
        registry.move_alias(model_name, ALIAS, number_two)
        await wait_until(
            lambda: sum(line["event"] == "bundle_refused" for line in server.logs) == 2, "it is tried again"
        )
        assert (await server.recommend()).model_version == "one"


async def test_a_server_restarts_without_its_registry_and_finds_it_again(
    tmp_path: Path, model_name: str, first: Bundle, second: Bundle
) -> None:
    registry = MlflowRegistry(tmp_path / "registry")
    registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    hidden = registry.database.with_suffix(".away")
    settings = {"registry_uri": registry.uri, "model_name": model_name, "store_url": "redis://127.0.0.1:1/0"}
    async with serve(tmp_path / "server", **settings) as server:
        assert (await server.recommend()).model_version == "one"
        # It goes on without the registry, and reports that it is down.
        registry.database.rename(hidden)
        await server.log("registry_unavailable")

        async def down() -> bool:
            return (await server.status()).dependencies["registry"] == "down"

        await wait_until(down, "the registry is reported to be down")

        async def breaker_is_open() -> bool:
            return (await server.status()).breakers["registry"] == "open"

        await wait_until(breaker_is_open, "the registry is spared")
        assert 'tandem_breaker_state{breaker="registry",state="closed"} 0.0' in await server.metrics()
        assert (await server.recommend()).model_version == "one"
        assert await server.serving_status() == "SERVING"
    async with serve(tmp_path / "server", **settings) as server:
        await server.log("serving_cached_bundle", model_version="one")
        response = await server.recommend()
        assert (response.model_version, response.variant) == ("one", ALIAS)
        assert (await server.status()).dependencies["registry"] == "down"
        hidden.rename(registry.database)
        registry.register(second.directory, model_name=model_name, model_version="two", alias=ALIAS)
        await server.log("registry_up")
        await server.log("model_serving", model_version="two")
        assert (await server.status()).dependencies["registry"] == "up"


async def test_a_server_without_registry_and_cache_waits(tmp_path: Path) -> None:
    async with serve(
        tmp_path, until_serving=False, registry_uri="http://127.0.0.1:1", store_url="redis://127.0.0.1:1/0"
    ) as server:
        await server.log("no_cached_bundle")
        assert await server.serving_status() == "NOT_SERVING"


async def test_a_damaged_cache_is_downloaded_anew(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle
) -> None:
    number = registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    settings = {"registry_uri": registry.uri, "model_name": model_name, "store_url": "redis://127.0.0.1:1/0"}
    async with serve(tmp_path, **settings):
        pass
    flipped_byte_in_index(tmp_path / "bundles" / number)
    async with serve(tmp_path, **settings) as server:
        await server.log("cached_bundle_damaged", registry_version=number)
        assert (await server.status()).bundles_refused == 0
        assert (await server.recommend()).model_version == "one"


async def test_a_cached_folder_of_another_registry_is_not_taken_for_the_version(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, second: Bundle
) -> None:
    number = registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    shutil.copytree(second.directory, tmp_path / "bundles" / number)
    async with serve(
        tmp_path, registry_uri=registry.uri, model_name=model_name, store_url="redis://127.0.0.1:1/0"
    ) as server:
        assert (await server.recommend()).model_version == "one"

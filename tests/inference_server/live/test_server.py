"""The live catalogue over a whole server: every worker, within seconds, and through a swap under load."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.inference_server.live.feeds import Feeds
from tests.support.serving import MlflowRegistry, Server, serve, valkey, wait_until

pytestmark = pytest.mark.process

ALIAS = "champion"
NUM_WORKERS = 2


async def by_worker(server: Server) -> dict[int, pb.GetServingStatusResponse]:
    """The status of every worker: the kernel gives each connection to one of them."""
    found = {}
    while len(found) < NUM_WORKERS:
        async with server.connection() as connection:
            found[connection.worker] = await connection.stub.GetServingStatus(pb.GetServingStatusRequest())
    return found


async def until_every_worker_has_read(server: Server, sequence: int) -> None:
    async def all_have() -> bool:
        return all(status.live_catalogue.sequence >= sequence for status in (await by_worker(server)).values())

    await wait_until(all_have, f"every worker has read change {sequence}")


async def asked_of_every_worker(server: Server, **fields: object) -> list[set[str]]:
    answers = {}
    while len(answers) < NUM_WORKERS:
        async with server.connection() as connection:
            response = await connection.stub.Recommend(pb.RecommendRequest(**fields))  # type: ignore[arg-type]
            answers[connection.worker] = {item.item_id for item in response.items}
    return list(answers.values())


async def test_every_worker_follows(tmp_path: Path, bundle: Bundle) -> None:
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(tmp_path / "server", bundle_path=bundle.directory, store_url=store.url, workers=NUM_WORKERS) as server,
        store.client() as client,
    ):
        feeds = Feeds(client, bundle.manifest.model_version)
        now = int(time.time() * 1e6)
        await feeds.change("new", np.array(bundle.item_vectors[7]), changed_at=now)
        sequence = await feeds.change("item-8", deleted=True, changed_at=now)
        await until_every_worker_has_read(server, sequence)
        for found in await asked_of_every_worker(server, recent_item_ids=["item-7"], num_items=500):
            assert "new" in found
            assert "item-8" not in found
        for status in (await by_worker(server)).values():
            live = status.live_catalogue
            assert (live.items, live.dead_rows, live.waiting, live.put_off) == (1, 1, 0, 0)
        metrics = await server.metrics()
        assert "tandem_live_items 1.0" in metrics, "not the sum of both workers"
        assert "tandem_live_dead_rows 1.0" in metrics
        assert f"tandem_live_lag_seconds_count {2.0 * NUM_WORKERS}" in metrics


async def test_a_deleted_item_stays_gone_while_bundles_come_and_go(
    tmp_path: Path, registry: MlflowRegistry, model_name: str
) -> None:
    """Requests run all the time, under two bundles that were made without the change."""
    bundles = [build(tmp_path / version, model_version=version, seed=seed) for seed, version in enumerate("ab")]
    registry.register(bundles[0].directory, model_name=model_name, model_version="a", alias=ALIAS)
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(
            tmp_path / "server",
            registry_uri=registry.uri,
            model_name=model_name,
            store_url=store.url,
            workers=NUM_WORKERS,
        ) as server,
        store.client() as client,
    ):
        sequence = await Feeds(client, "a").change("item-8", deleted=True)
        await until_every_worker_has_read(server, sequence)
        answers: list[pb.RecommendResponse] = []

        async def ask() -> None:
            async with server.connection() as connection:
                while True:
                    request = pb.RecommendRequest(recent_item_ids=["item-7"], num_items=500)
                    response = await connection.stub.Recommend(request)
                    assert "item-8" not in {item.item_id for item in response.items}
                    assert len(response.items) == 198
                    answers.append(response)

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask()) for _ in range(4)]
            registry.register(bundles[1].directory, model_name=model_name, model_version="b", alias=ALIAS)
            await wait_until(lambda: answers and answers[-1].model_version == "b", "answers by the new bundle")
            registry.move_alias(model_name, ALIAS, "1")
            await wait_until(lambda: answers[-1].model_version == "a", "answers by the bundle before")
            for task in asking:
                task.cancel()
        assert {answer.model_version for answer in answers} == {"a", "b"}

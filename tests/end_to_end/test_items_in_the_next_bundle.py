"""What UpsertItems and DeleteItems say, on its way into the next bundle, through the real programs.

    the server -> stream -> feature_sync -> archive by day -> the nightly run -> a new bundle -> the server

Some items change before the night, and are in its bundle. Others change while it trains: they are not, and stay live
around the bundle that takes over. Meanwhile somebody asks for the whole catalogue again and again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from google.protobuf.struct_pb2 import Value
from mlflow import MlflowClient

from tandem.contract import names
from tandem.contract.items import Item
from tandem.contract.streams import EVENTS, ITEM_CHANGES
from tandem.v1 import recommendation_pb2 as pb
from tests.end_to_end.conftest import Stack, new_stack
from tests.support.checkerboard import write_checkerboard
from tests.support.programs import PROGRAM_SECONDS, run_program, running_program
from tests.support.serving import PATIENCE_SECONDS, Server, serve, valkey, wait_until
from trainer.registry.registry import WARM_START_TAG, Registry

pytestmark = pytest.mark.process

NUM_ITEMS = 24
NEWCOMERS = 20
BOARD = frozenset(f"item-{row}" for row in range(NUM_ITEMS))
WHITE_ITEMS = [f"item-{row}" for row in range(0, NUM_ITEMS, 2)]
SMALL = ("towers.embedding_dim=16", "fit.batch_size=16", "text.encoder=none", "warm_start.min_validation_users=10")
# A first champion that the next one is better than, whatever the seed; and no machine of tests compares latencies.
FIRST = (*SMALL, "fit.max_epochs=1", "ranker.content_weights=0", "ranker.item_item_weights=0")
NIGHT = (*SMALL, "fit.max_epochs=8", "gate.max_latency_ratio=100")
PAUSE_SECONDS = 0.1
"""Between two questions of the watcher."""


@dataclass
class Watch:
    """The whole catalogue as one caller sees it, answer by answer."""

    answers: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """(model version, item ids), oldest first."""

    async def run(self, server: Server) -> None:
        """Asks until it is cancelled."""
        while True:
            answer = await server.recommend(user_id="user-0", num_items=100, exclude_seen=False)
            self.answers.append((answer.model_version, tuple(item.item_id for item in answer.items)))
            await asyncio.sleep(PAUSE_SECONDS)

    async def until(self, expected: frozenset[str]) -> int:
        """Waits until the catalogue is this one; returns the place of that answer."""

        def is_there() -> bool:
            return bool(self.answers) and frozenset(self.answers[-1][1]) == expected

        await wait_until(is_there, f"the catalogue is {sorted(expected)}")
        return len(self.answers) - 1

    def versions_of(self, expected: frozenset[str], answers: slice) -> list[str]:
        """The models of these answers, each once, in their order. Every answer must have these items, each once."""
        for version, ids in self.answers[answers]:
            assert sorted(ids) == sorted(expected), f"{version}: {sorted(expected.symmetric_difference(ids))}"
        return list(dict.fromkeys(version for version, _ in self.answers[answers]))


@asynccontextmanager
async def watching(server: Server) -> AsyncIterator[Watch]:
    watch = Watch()
    task = asyncio.create_task(watch.run(server))
    try:
        yield watch
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended


@dataclass(frozen=True)
class System:
    """All programs at work."""

    stack: Stack
    server: Server
    environment: Mapping[str, str]
    watch: Watch

    async def upsert(self, *items: pb.Item) -> None:
        await self.server.stub.UpsertItems(pb.UpsertItemsRequest(items=items), timeout=PATIENCE_SECONDS)

    async def delete(self, *item_ids: str) -> None:
        await self.server.stub.DeleteItems(pb.DeleteItemsRequest(item_ids=item_ids), timeout=PATIENCE_SECONDS)

    async def titles(self, **of_filter: Any) -> dict[str, str]:
        """Titles of the items that are recommended through a filter, by id."""
        answer = await self.server.recommend(
            user_id="user-0",
            num_items=100,
            exclude_seen=False,
            explain=True,
            filter=pb.RecommendFilter(**of_filter),
        )
        return {item.item_id: item.reason.title for item in answer.items}

    async def similar(self, item_id: str) -> set[str]:
        request = pb.SimilarItemsRequest(item_ids=[item_id], num_items=100)
        answer = await self.server.stub.SimilarItems(request, timeout=PATIENCE_SECONDS)
        return {item.item_id for item in answer.items}

    def archived(self, stream: str) -> list[dict[str, Any]]:
        """The rows of an archive, in the order of its files."""
        files = sorted((self.stack.settings.data_dir / stream).glob("day=*/[0-9]*.parquet"))
        return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """A first champion, served; feature_sync beside it; somebody who watches."""
    data = write_checkerboard(tmp_path / "data", num_items=NUM_ITEMS)
    stack = new_stack(tmp_path / "stack", "--dataset", str(data))
    train = ("trainer", "train", *stack.dataset, *sets(FIRST), "--baselines", "popularity")
    await run_program(*train, environment=stack.environment)
    async with valkey(tmp_path / "valkey") as store:
        environment = {
            **stack.environment,
            "TANDEM_STORE_URL": store.url,
            "TANDEM_ARCHIVE_SECONDS": "0.2",
            "TANDEM_SYNC_METRICS_PORT": "0",
        }
        settings = {
            "registry_uri": stack.settings.registry_uri,
            "store_url": store.url,
            "events_deadline_ms": 30_000,  # a busy machine is no reason to refuse a change
        }
        async with (
            serve(tmp_path / "server", **settings) as server,
            running_program("feature_sync", "run", environment=environment),
            watching(server) as watch,
        ):
            yield System(stack, server, environment, watch)


def sets(assignments: tuple[str, ...]) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


def square(item_id: str, title: str, *categories: str, available: bool = True, **attributes: float) -> pb.Item:
    values = {name: Value(number_value=value) for name, value in attributes.items()}
    return pb.Item(item_id=item_id, title=title, categories=categories, attributes=values, available=available)


async def record_visits(server: Server) -> int:
    """Newcomers who click the new item and then all white items but one each; returns how many clicks that are."""
    num_clicks = 0
    for user in range(NEWCOMERS):
        chosen = ["pearl", *(item for item in WHITE_ITEMS if item != WHITE_ITEMS[user % len(WHITE_ITEMS)])]
        clicks = [
            # Clicks of one moment are ordered by their ids.
            pb.Event(event_id=f"{user}-{n:02}", user_id=f"newcomer-{user}", item_id=item, type=pb.EVENT_TYPE_CLICK)
            for n, item in enumerate(chosen)
        ]
        await server.stub.RecordEvents(pb.RecordEventsRequest(events=clicks), timeout=PATIENCE_SECONDS)
        num_clicks += len(clicks)
    return num_clicks


async def run_night(system: System, once_data_are_taken: Callable[[], Awaitable[None]]) -> dict[str, Any]:
    """`python -m deploy.nightly run` on a day without a full training; returns what it printed."""
    environment = {
        **system.environment,
        "TANDEM_NIGHTLY_DATA": " ".join(system.stack.dataset),
        "TANDEM_NIGHTLY_CONFIG": " ".join(sets(NIGHT)),
        "TANDEM_NIGHTLY_SERVER": f"http://127.0.0.1:{system.server.http_port}",
        "TANDEM_NIGHTLY_FULL_ON": (datetime.now(UTC) + timedelta(days=3)).strftime("%A"),
    }
    night = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.nightly", "run"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
        start_new_session=True,
    )
    assert night.stdout is not None
    assert night.stderr is not None
    said = ""
    try:
        async with asyncio.timeout(PROGRAM_SECONDS):
            async for line in night.stderr:
                said += line.decode()
                if line.startswith(b"nightly: ingest: "):
                    await once_data_are_taken()
            out = await night.stdout.read()
            assert await night.wait() == 0, said
    finally:
        if night.returncode is None:
            os.killpg(night.pid, signal.SIGKILL)  # with the step that it is at
            await night.wait()
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.mark.slow
async def test_changes_are_in_the_next_bundle_or_stay_live_around_it(system: System) -> None:
    watch = system.watch
    await watch.until(BOARD)
    first = (await system.server.status()).model_version

    # Eight changes for the next bundle, and clicks on one of the new items.
    await system.upsert(square("pearl", "A draft", "white", price=3), square("brief", "Sold in a day", "white"))
    await system.upsert(
        square("pearl", "A pearl square", "white", "novel", price=9.5),
        square("ivory", "An ivory square", "white", "novel"),
        square("item-4", "An old white square", "white", "sale", price=1),
        square("item-5", "A black square", "black", available=False),
    )
    await system.delete("item-3", "brief")
    before = BOARD - {"item-3", "item-5"} | {"pearl", "ivory"}
    first_before = await watch.until(before)
    num_clicks = await record_visits(system.server)
    await wait_until(lambda: len(system.archived(ITEM_CHANGES)) >= 8, "the changes are archived")
    await wait_until(lambda: len(system.archived(EVENTS)) >= num_clicks, "the clicks are archived")

    # Four more while it is trained: an item that it will have, a new one, one that comes back, one that goes.
    after = before - {"item-7"} | {"coal", "item-5"}
    last_before = first_after = 0

    async def change_more() -> None:
        nonlocal last_before, first_after
        last_before = len(watch.answers)
        await system.upsert(
            square("ivory", "An ivory square, reduced", "white", "sale", price=2),
            square("coal", "A coal square", "black", "novel"),
            square("item-5", "A black square, again", "black"),
        )
        await system.delete("item-7")
        first_after = await watch.until(after)

    night = await run_night(system, change_more)
    assert (night["served"], night["full"]) == (True, False)
    num_answers = len(watch.answers)
    await wait_until(lambda: len(watch.answers) >= num_answers + 20, "there are twenty answers more")

    check_bundle(system.stack, night["model_version"])
    await check_served(system)
    # Nothing was lost or came back for a single answer, the first ones of the new model among them.
    assert watch.versions_of(before, slice(first_before, last_before)) == [first]
    # On a machine so slow that the night is over before the last changes show, the new model alone shows them.
    seen_with = watch.versions_of(after, slice(first_after, None))
    assert seen_with in ([first, night["model_version"]], [night["model_version"]])
    assert not any({"item-3", "brief"} & set(ids) for _, ids in watch.answers[first_before:])
    await wait_until(lambda: len(system.archived(ITEM_CHANGES)) >= 12, "the later changes are archived")
    assert [row[names.SEQUENCE] for row in system.archived(ITEM_CHANGES)] == list(range(1, 13))


def check_bundle(stack: Stack, model_version: str) -> None:
    """What the first eight changes said is in the bundle, and nothing of what came later."""
    champion = Registry(stack.settings).champion()
    assert champion is not None
    assert champion.model_version == model_version
    assert MlflowClient(stack.settings.registry_uri).get_run(champion.run_id).data.tags[WARM_START_TAG] == "1"
    bundle = stack.bundle()
    assert bundle.manifest.catalogue_sequence == 8
    items = {item.item_id: item for item in map(bundle.items.item, range(len(bundle.items)))}
    assert items.keys() == BOARD | {"pearl", "ivory", "brief"}
    assert items["pearl"] == Item("pearl", "A pearl square", ("white", "novel"), {"price": "9.5"}, NEWCOMERS)
    assert items["ivory"] == Item("ivory", "An ivory square", ("white", "novel"), {}, 0)
    changed = items["item-4"]
    assert (changed.title, changed.categories) == ("An old white square", ("white", "sale"))
    assert changed.attributes == {"price": "1"}
    assert {item.item_id for item in items.values() if not item.available} == {"item-3", "item-5", "brief"}


async def check_served(system: System) -> None:
    """The new bundle's items are searched as its own, and the last four changes hold around it, once each."""
    live = (await system.server.status()).live_catalogue
    assert (live.sequence, live.items, live.waiting) == (12, 3, 0), "ivory, coal and item-5 are live: pearl is not"
    assert live.dead_rows == 3, "item-3 and brief in the bundle, item-7 since"
    assert await system.titles(include_categories=["novel"]) == {"pearl": "A pearl square", "coal": "A coal square"}
    assert await system.titles(include_categories=["sale"]) == {
        "item-4": "An old white square",
        "ivory": "An ivory square, reduced",
    }
    price = pb.AttributePredicate(name="price", min=5)
    assert await system.titles(attributes=[price]) == {"pearl": "A pearl square"}
    assert (await system.titles(include_categories=["black"]))["item-5"] == "A black square, again"
    everything = set(await system.titles())
    for item_id in ("pearl", "ivory", "coal"):
        assert await system.similar(item_id) == everything - {item_id}

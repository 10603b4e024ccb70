"""Changes from UpsertItems and DeleteItems, on their way into the next bundle, through the real programs.

    the server -> stream -> feature_sync -> archive by day -> the nightly run -> a new bundle -> the server

The first changes come before the nightly run and are in its bundle. Later changes come during the training: they are
not in the bundle and stay live beside it. Meanwhile a watcher keeps requesting the whole catalogue.
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
# A first champion that is worse than the next, whatever the seed. A test machine is too noisy to compare latencies.
FIRST = (
    *SMALL,
    "fit.max_epochs=1",
    "ranker.content_weights=0",
    "ranker.item_item_weights=0",
    "ranker.sequential_weights=0",
)
NIGHT = (*SMALL, "fit.max_epochs=8", "gate.max_latency_ratio=100")
PAUSE_SECONDS = 0.1
"""Between two requests of the watcher."""


@dataclass
class Watch:
    """The whole catalogue as a single caller sees it, answer by answer."""

    answers: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """(model version, item ids), oldest first."""

    async def run(self, server: Server) -> None:
        """Sends requests until it is cancelled."""
        while True:
            answer = await server.recommend(user_id="user-0", num_items=100, exclude_seen=False)
            self.answers.append((answer.model_version, tuple(item.item_id for item in answer.items)))
            await asyncio.sleep(PAUSE_SECONDS)

    async def until(self, expected: frozenset[str]) -> int:
        """Waits until an answer has exactly the items `expected`; returns the index of the newest answer."""

        def is_there() -> bool:
            return bool(self.answers) and frozenset(self.answers[-1][1]) == expected

        await wait_until(is_there, f"the catalogue is {sorted(expected)}")
        return len(self.answers) - 1

    def versions_with(self, expected: frozenset[str], answers: slice) -> list[str]:
        """Model versions of the given answers, in order, without repeats. Every answer must have the expected items."""
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
    """All programs, running."""

    stack: Stack
    server: Server
    environment: Mapping[str, str]
    watch: Watch

    async def upsert(self, *items: pb.Item) -> None:
        await self.server.stub.UpsertItems(pb.UpsertItemsRequest(items=items), timeout=PATIENCE_SECONDS)

    async def delete(self, *item_ids: str) -> None:
        await self.server.stub.DeleteItems(pb.DeleteItemsRequest(item_ids=item_ids), timeout=PATIENCE_SECONDS)

    async def titles(self, **filter_fields: Any) -> dict[str, str]:
        """Item id -> title, of the items recommended with a filter."""
        answer = await self.server.recommend(
            user_id="user-0",
            num_items=100,
            exclude_seen=False,
            explain=True,
            filter=pb.RecommendFilter(**filter_fields),
        )
        return {item.item_id: item.reason.title for item in answer.items}

    async def similar(self, item_id: str) -> set[str]:
        request = pb.SimilarItemsRequest(item_ids=[item_id], num_items=100)
        answer = await self.server.stub.SimilarItems(request, timeout=PATIENCE_SECONDS)
        return {item.item_id for item in answer.items}

    def archived(self, stream: str) -> list[dict[str, Any]]:
        """Rows of a stream's archive, in the order of its files."""
        files = sorted((self.stack.settings.data_dir / stream).glob("day=*/[0-9]*.parquet"))
        return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """A served first champion, with feature_sync and a watcher running."""
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
            "events_deadline_ms": 30_000,  # a busy machine must not refuse a change
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
    """Records clicks of newcomers on the new item and on all white items except one each; returns their number."""
    num_clicks = 0
    for user in range(NEWCOMERS):
        chosen = ["pearl", *(item for item in WHITE_ITEMS if item != WHITE_ITEMS[user % len(WHITE_ITEMS)])]
        clicks = [
            # Clicks of the same time are ordered by their ids.
            pb.Event(event_id=f"{user}-{n:02}", user_id=f"newcomer-{user}", item_id=item, type=pb.EVENT_TYPE_CLICK)
            for n, item in enumerate(chosen)
        ]
        await server.stub.RecordEvents(pb.RecordEventsRequest(events=clicks), timeout=PATIENCE_SECONDS)
        num_clicks += len(clicks)
    return num_clicks


async def run_night(system: System, after_ingest: Callable[[], Awaitable[None]]) -> dict[str, Any]:
    """`python -m deploy.nightly run` on a day without a full training; returns the JSON object that it printed."""
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
    log = ""
    try:
        async with asyncio.timeout(PROGRAM_SECONDS):
            async for line in night.stderr:
                log += line.decode()
                if line.startswith(b"nightly: ingest: "):
                    await after_ingest()
            out = await night.stdout.read()
            assert await night.wait() == 0, log
    finally:
        if night.returncode is None:
            os.killpg(night.pid, signal.SIGKILL)  # including its current step
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

    # Four changes during the training: of an item in the bundle, a new item, a returning item and a deleted item.
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
    await wait_until(lambda: len(watch.answers) >= num_answers + 20, "twenty further answers")

    check_bundle(system.stack, night["model_version"])
    await check_served(system)
    # In no answer, the first answers of the new model included, was an item lost or back.
    assert watch.versions_with(before, slice(first_before, last_before)) == [first]
    # If the machine is so slow that the night ends before the last changes show, only the new model shows them.
    seen_with = watch.versions_with(after, slice(first_after, None))
    assert seen_with in ([first, night["model_version"]], [night["model_version"]])
    assert not any({"item-3", "brief"} & set(ids) for _, ids in watch.answers[first_before:])
    await wait_until(lambda: len(system.archived(ITEM_CHANGES)) >= 12, "the later changes are archived")
    assert [row[names.SEQUENCE] for row in system.archived(ITEM_CHANGES)] == list(range(1, 13))


def check_bundle(stack: Stack, model_version: str) -> None:
    """Checks that the bundle contains the first eight changes and no later change."""
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
    """Checks that the server serves the new bundle's items and, on top of them, the last four changes."""
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

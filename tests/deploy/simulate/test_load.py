"""Simulated users against a real stack of server, store and feature_sync: what the ledger counts is in the archives."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import pytest_asyncio

from deploy.simulate.errors import LoadFailed
from deploy.simulate.experiment import archived_rows
from deploy.simulate.ledger import Ledger
from deploy.simulate.load import LoadSettings, drive, load
from deploy.simulate.settings import WorldSettings
from deploy.simulate.world import World, make_world
from deploy.simulate.world_files import write_world
from tests.support.programs import run_program, running_program
from tests.support.serving import Server, serve, valkey, wait_until
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

SETTINGS = WorldSettings(seed=2, users=60, items=200, new_users=12, new_items=3, days=3)
EXPERIMENTS = """
features:
  - name: nothing
    strategies:
      - parameters: {rollout: 100}
        variants:
          - {name: a, payload: {type: json, value: {experiment: placebo}}}
          - {name: b, payload: {type: json, value: {experiment: placebo}}}
"""


@dataclass(frozen=True, kw_only=True)
class Stack:
    server: Server
    folder: Path
    environment: dict[str, str]

    @property
    def address(self) -> str:
        return f"grpc://127.0.0.1:{self.server.grpc_port}"

    def archive(self, name: str) -> list[dict[str, Any]]:
        files = sorted((self.folder / "data" / name).glob("day=*/[0-9]*.parquet"))
        return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SETTINGS)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    bundle = build_tiny_bundle(folder / "bundle", TinySpec())
    (folder / "experiments.yaml").write_text(EXPERIMENTS)
    async with valkey(folder / "valkey") as store:
        settings = {"bundle_path": bundle.directory, "store_url": store.url, "data_dir": folder / "data"}
        environment = {f"TANDEM_{name.upper()}": str(value) for name, value in settings.items()}
        sync = {**environment, "TANDEM_ARCHIVE_SECONDS": "0.2", "TANDEM_SYNC_METRICS_PORT": "0"}
        async with (
            serve(folder, impressions="stream", experiments_file=folder / "experiments.yaml", **settings) as server,
            running_program("feature_sync", "run", environment=sync),
        ):
            yield Stack(server=server, folder=folder, environment=sync)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def ledger(stack: Stack, world: World) -> Ledger:
    """Three days of visits, all of which have been archived."""
    settings = LoadSettings(address=stack.address, days=3, rate=1_000.0, concurrency=8, deadline_ms=20_000.0)
    ledger = await drive(world, settings)
    expected = {"impressions": ledger.all.answers, "events": sum(ledger.events.values())}

    def is_archived() -> bool:
        found = {name: archived_rows(stack.folder / "data" / name) for name in expected}
        return all(found[name] >= number for name, number in expected.items())

    await wait_until(is_archived, f"{expected} are archived")
    return ledger


async def test_nothing_is_lost_between_the_visits_and_the_archives(stack: Stack, ledger: Ledger) -> None:
    impressions, events = stack.archive("impressions"), stack.archive("events")
    assert not ledger.errors
    assert not ledger.events_lost
    assert ledger.all.answers > 100
    assert len(impressions) == ledger.all.answers
    assert sum(len(row["item_ids"]) for row in impressions) == ledger.all.shown == 10 * ledger.all.answers
    assert Counter(row["event_type"].upper() for row in events) == ledger.events
    assert ledger.events["CLICK"] == ledger.all.clicked > 0
    paid = [row["value"] for row in events if row["event_type"] == "purchase"]
    assert len(paid) == ledger.all.purchases
    assert sum(paid) == pytest.approx(ledger.all.revenue)
    shown = {(row["request_id"], item) for row in impressions for item in row["item_ids"]}
    assert {(row["request_id"], row["item_id"]) for row in events} <= shown
    assert {row["placement"] for row in impressions} == {"home", "product"}
    assert ledger.models == {"tiny-1": ledger.all.answers}


async def test_arms_are_those_of_the_impressions(stack: Stack, ledger: Ledger) -> None:
    arms = Counter(
        (arm["experiment"], arm["arm"])
        for row in stack.archive("impressions")
        for arm in row["assignments"]
        if arm["exposed"]
    )
    assert arms == {key: totals.answers for key, totals in ledger.arms.items()}
    assert set(arms) == {("placebo", "a"), ("placebo", "b")}
    assert ledger.not_exposed == 0


async def test_the_report_counts_what_the_ledger_counts(stack: Stack, ledger: Ledger, tmp_path: Path) -> None:
    report = await run_program(
        "feature_sync", "attribute", "--output", str(tmp_path / "report"), environment=stack.environment
    )
    total = report["all"]
    assert {name: total[name] for name in ("answers", "shown", "clicks", "purchases")} == {
        "answers": ledger.all.answers,
        "shown": ledger.all.shown,
        "clicks": ledger.all.clicked,
        "purchases": ledger.all.purchases,
    }
    assert total["revenue"]["EUR"] == pytest.approx(ledger.all.revenue)
    assert total["users"] == len(ledger.all.units)
    for counts in report["events"].values():
        assert sum(counts.values()) == counts["by_request"], "every event is owed to the answer that it names"
    by_arm = json.loads((tmp_path / "report" / "report.json").read_text())["by"]["arm"]
    assert {(line["experiment"], line["arm"]): line["clicked"] for line in by_arm} == {
        key: totals.clicked for key, totals in ledger.arms.items()
    }


async def test_some_visits_begin_before_the_user_logs_in(stack: Stack, ledger: Ledger) -> None:
    impressions = {row["request_id"]: row for row in stack.archive("impressions")}
    anonymous = {name: row for name, row in impressions.items() if not row["user_id"]}
    assert 0.05 < len(anonymous) / len(impressions) < 0.3
    assert all(dict(row["context"])["sessionId"].startswith("session-") for row in anonymous.values())
    names = {row["user_id"] for row in stack.archive("events") if row["request_id"] in anonymous}
    assert {name.partition("-")[0] for name in names} == {"session", "user"}, "some log in, and some do not"


async def test_newcomers_come_and_new_items_are_told(stack: Stack, ledger: Ledger) -> None:
    assert {f"user-{row}" for row in range(60, 72)} & {row["user_id"] for row in stack.archive("impressions")}
    await wait_until(lambda: archived_rows(stack.folder / "data" / "item-changes") >= 3, "new items are archived")
    assert {row["item_id"] for row in stack.archive("item-changes")} == {"item-200", "item-201", "item-202"}


async def test_load_for_other_tests_ends_after_its_answers(stack: Stack, ledger: Ledger) -> None:
    found = await load(stack.address, users=20, answers=40, seed=7)
    assert 40 <= found.all.answers < 40 + 4 * 32
    assert not found.errors


async def test_a_scenario_that_the_server_does_not_have_ends_the_run(stack: Stack, ledger: Ledger) -> None:
    tiny = make_world(WorldSettings(users=5, items=20, new_users=0, new_items=0))
    with pytest.raises(LoadFailed, match=r"refuses what every visit asks for.*scenario"):
        await drive(tiny, LoadSettings(address=stack.address, scenario="nowhere"))


async def test_the_command_prints_what_happened_and_ctrl_c_ends_it_in_order(
    stack: Stack, ledger: Ledger, tmp_path: Path
) -> None:
    write_world(tmp_path / "shop", WorldSettings(users=30, items=50, new_users=0, new_items=0), datetime.now(UTC))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.simulate", "run", "--address", stack.address, "--days", "10000"),
        *("--world", str(tmp_path / "shop"), "--seconds-per-day", "0.1", "--ledger", str(tmp_path / "ledger.json")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    first = (await process.stdout.readline()).decode()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert first.startswith("day 1: ")
    assert (process.returncode, err.decode()) == (130, "")
    written = json.loads((tmp_path / "ledger.json").read_text())
    assert f"answers       {written['all']['answers']:>10,}" in out.decode()
    assert "CTR by position: " in out.decode()

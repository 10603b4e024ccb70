"""The whole loop on one machine, unattended: read `_loop` downwards.

Store, server and feature_sync are children of this process and end with it, as in `deploy.local`. Every step is a
command that an operator would use.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from deploy.local.client import recommend, wait_until_serving
from deploy.local.ports import HOST, free_port, wait_for_store
from deploy.local.processes import Children
from deploy.local.stack import Plan, last_json, python_command, start_services, supervise
from deploy.nightly.steps import EXIT_REFUSED
from deploy.simulate.command import midnight, print_day, write_ledger
from deploy.simulate.errors import UsageError
from deploy.simulate.experiment import (
    CHALLENGER,
    NEW_MODEL,
    NO_EXPERIMENTS,
    Finding,
    experiments_file,
    findings,
    plans_file,
    told,
)
from deploy.simulate.ledger import Ledger
from deploy.simulate.load import LoadSettings, drive
from deploy.simulate.settings import WorldSettings
from deploy.simulate.summary import summary
from deploy.simulate.waiting import PATIENCE_SECONDS, until_archived, until_both_serve
from deploy.simulate.world_files import DATASET, write_world

SMALL: Final = (
    *("text.encoder=none", "towers.embedding_dim=32", "towers.user_tower=mean", "fit.max_epochs=12"),
    *("fit.patience=3", "gate.max_latency_ratio=100"),
)
"""A model that trains within a minute on two cores. The gate compares no latencies: the machine has other work."""
BEGINNER: Final = (
    *("fit.max_epochs=1", "fit.warmup_epochs=0", "fit.learning_rate=5e-4"),
    *("ranker.content_weights=0", "ranker.item_item_weights=0"),
)
"""What plants the worse of the two models: towers that have hardly learned, and nothing beside them."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """The demonstration."""

    folder: Path
    """New or empty; everything is written here."""
    world: WorldSettings
    is_challenger_better: bool
    """Whether the truly better model challenges, or is challenged."""
    rate: float
    concurrency: int
    seconds_per_day: float


@dataclass(kw_only=True)
class _Demo:
    settings: DemoSettings
    plan: Plan
    children: Children
    began: float = field(default_factory=time.monotonic)

    @property
    def shop(self) -> Path:
        """Folder of the world."""
        return self.settings.folder / "shop"

    @property
    def experiments(self) -> Path:
        """The file that the server follows."""
        return self.settings.folder / "experiments.yaml"

    async def json(
        self, *command: str, allowed: tuple[int, ...] = (0,), variables: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON object that a command prints last; its log goes to a file. Raises ChildFailed."""
        name = "-".join(word for word in command[:2] if not word.startswith("-"))
        printed = await self.children.run(
            name,
            python_command(*command),
            {**self.plan.store_environment, **(variables or {})},
            allowed=allowed,
            echo=False,
        )
        return last_json(name, printed)


@dataclass(frozen=True, kw_only=True)
class _Models:
    """Both models' versions, and the folder of the data that they were trained on."""

    champion: str
    challenger: str
    prepared: str


def demo(settings: DemoSettings) -> int:
    """Runs the demonstration. Returns the exit status: 0, or 130 if it was interrupted.

    Raises UsageError for a folder that is not empty, LoadFailed, and StackError.
    """
    folder = settings.folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--folder: {settings.folder} is no empty folder; name a new one")
    plan = Plan(
        train_arguments=(),
        registry_uri=f"sqlite:///{folder / 'mlflow.db'}",
        store_url=f"redis://{HOST}:{free_port()}/0",
        store_data_dir=folder,
        log_dir=folder / "logs",
        grpc_port=free_port(),
        http_port=free_port(),
        metrics_port=free_port(),
        sync_metrics_port=free_port(),
        variables={
            "TANDEM_DATA_DIR": str(folder),
            "TANDEM_IMPRESSIONS": "stream",
            "TANDEM_EXPERIMENTS_FILE": str(folder / "experiments.yaml"),
            "TANDEM_FURTHER_MODELS": CHALLENGER,
            "TANDEM_ARCHIVE_SECONDS": "1",
            # Programs share the machine with trainings; what is judged here is not their speed.
            "TANDEM_DEADLINE_MS": "2000",
        },
    )

    async def work(children: Children) -> None:
        await _loop(_Demo(settings=settings, plan=plan, children=children))

    return 0 if asyncio.run(supervise(plan.log_dir, work)) else 130


async def _loop(it: _Demo) -> None:
    settings, world_settings = it.settings, it.settings.world
    with _step(f"a shop with {world_settings.users:,} users and {world_settings.items:,} items"):
        world = write_world(it.shop, world_settings, midnight())
        print(f"    data set: {it.shop / DATASET}")
    with _step("an online store"):
        await it.children.start("store", python_command("feature_sync", "store"), it.plan.store_environment)
        await wait_for_store(it.plan.store_url)
    models = await _models(it)
    with _step("server and feature_sync, with both models, impressions and two experiments"):
        it.experiments.write_text(experiments_file(world_settings.seed), encoding="utf-8")
        await it.json("feature_sync", "publish", "--prepared", models.prepared)
        await start_services(it.plan, it.children)
        await wait_until_serving(it.plan.address, models.champion, PATIENCE_SECONDS)
        await until_both_serve(it.plan.address)
        print(f"    grpc://{it.plan.address}, http://{HOST}:{it.plan.http_port}, experiments: {it.experiments}")
    started = datetime.now(UTC)
    with _step(f"{world_settings.days} days of visits, as fast as this machine answers"):
        ledger = await drive(world, _load(it), on_day=print_day)
        write_ledger(settings.folder / "ledger.json", ledger)
        print(summary(ledger))
    with _step("all that was shown and done, in the archive"):
        await until_archived(settings.folder, ledger)
    with _step("the report of the experiments, beside the truth"):
        found = await _report(it, started, ledger)
    with _step("the end of the experiment"):
        served = await _conclude(it, models, found)
    with _step("the nightly run: from the recorded events to the next model"):
        await _night(it, served)
    print(f"\nThe whole loop took {time.monotonic() - it.began:.0f} s. Everything is in {settings.folder}.", flush=True)


async def _models(it: _Demo) -> _Models:
    """Trains both, and gives them their aliases."""
    better, worse = _sets(SMALL), _sets((*SMALL, *BEGINNER))
    of_champion, of_challenger = (worse, better) if it.settings.is_challenger_better else (better, worse)
    with _step(f"a champion: the {'worse' if it.settings.is_challenger_better else 'better'} model"):
        trained = await it.json(*_train("--dataset", str(it.shop / DATASET)), *of_champion)
        await it.json("trainer", "promote", "--force", str(trained["registry_version"]))
        print(f"    {trained['model_version']}, version {trained['registry_version']}")
    with _step(f"a challenger: the {'better' if it.settings.is_challenger_better else 'worse'} model"):
        challenger = await it.json(*_train("--prepared", str(trained["prepared"])), *of_challenger)
        await it.json("trainer", "challenger", "--force", str(challenger["registry_version"]))
        print(f"    {challenger['model_version']}, version {challenger['registry_version']}")
    return _Models(
        champion=str(trained["model_version"]),
        challenger=str(challenger["model_version"]),
        prepared=str(trained["prepared"]),
    )


async def _report(it: _Demo, started: datetime, ledger: Ledger) -> list[Finding]:
    folder = it.settings.folder
    plans = folder / "plans.yaml"
    plans.write_text(plans_file(it.settings.world.users), encoding="utf-8")
    report = await it.json(
        *("feature_sync", "attribute", "--from", started.isoformat(), "--plans", str(plans)),
        *("--output", str(folder / "report")),
    )
    found = findings(report, ledger)
    for finding in found:
        print(told(finding))
    print(f"    report: {report['page']}")
    return found


async def _conclude(it: _Demo, models: _Models, found: list[Finding]) -> str:
    """Follows the verdict: promotes the challenger, or takes it away; returns the version that is served."""
    (verdict,) = (finding.decision for finding in found if finding.experiment == NEW_MODEL)
    it.experiments.with_suffix(".new").write_text(NO_EXPERIMENTS, encoding="utf-8")
    it.experiments.with_suffix(".new").replace(it.experiments)
    if verdict != "ship":
        await it.json("trainer", "challenger", "--clear")
        print(f"    verdict {verdict!r}: the champion stays, and challenges nobody any more")
        return models.champion
    # The experiment has decided, with more than the gate could know.
    await it.json("trainer", "promote", "--force", CHALLENGER)
    await wait_until_serving(it.plan.address, models.challenger, PATIENCE_SECONDS)
    print(f"    verdict 'ship': {models.challenger} is the champion now, and served")
    return models.challenger


async def _night(it: _Demo, served: str) -> None:
    variables = {
        "TANDEM_NIGHTLY_DATA": shlex.join(("--dataset", str(it.shop / DATASET))),
        "TANDEM_NIGHTLY_CONFIG": shlex.join(_sets(SMALL)),
        "TANDEM_NIGHTLY_SERVER": f"http://{HOST}:{it.plan.http_port}",
    }
    night = await it.json("deploy.nightly", "run", allowed=(0, EXIT_REFUSED), variables=variables)
    steps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in night["seconds"].items())
    print(f"    {steps}; trained {'in full' if night['full'] else 'a step on from the champion'}")
    if not night["served"]:
        print(f"    the gate refused {night['model_version']}: {'; '.join(night['failures'])}; {served} serves on")
        return
    await wait_until_serving(it.plan.address, night["model_version"], PATIENCE_SECONDS)
    answer = json.loads(await recommend(it.plan.address, "user-0", 5))
    items = ", ".join(item["item_id"] for item in answer["items"])
    print(f"    served before: {served}; now: {answer['model_version']}, which answers user-0 with {items}")


def _load(it: _Demo) -> LoadSettings:
    return LoadSettings(
        address=f"grpc://{it.plan.address}",
        days=it.settings.world.days,
        rate=it.settings.rate,
        concurrency=it.settings.concurrency,
        seconds_per_day=it.settings.seconds_per_day,
        seed=it.settings.world.seed,
    )


def _train(*data: str) -> tuple[str, ...]:
    return ("trainer", "train", *data, "--no-promote", "--baselines", "popularity")


def _sets(assignments: tuple[str, ...]) -> tuple[str, ...]:
    # The later of two assignments of a key counts.
    chosen = dict(assignment.split("=", 1) for assignment in assignments)
    return tuple(word for key, value in chosen.items() for word in ("--set", f"{key}={value}"))


@contextmanager
def _step(what: str) -> Iterator[None]:
    print(f"\n==> {what}", flush=True)
    began = time.monotonic()
    yield
    print(f"    ({time.monotonic() - began:.1f} s)", flush=True)

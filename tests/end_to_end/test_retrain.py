"""The DAG `retrain` in a real Airflow, with the real programs: from recorded events to a served model, and nights that
fail or train a worse model, after which the champion stays in service."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from deploy.local.ports import free_port
from tandem.contract.names import GATE_PASSED, GATE_REFUSED, GATE_TAG
from tandem.v1 import recommendation_pb2 as pb
from tests.deploy.airflow.airflow_runs import Airflow, needs_airflow
from tests.end_to_end.conftest import Stack, new_stack
from tests.support.checkerboard import write_checkerboard
from tests.support.programs import run_program, running_program
from tests.support.serving import Server, serve, valkey, wait_until
from trainer.registry.registry import WARM_START_TAG, Registry

pytestmark = pytest.mark.process

SMALL = ("towers.embedding_dim=16", "fit.batch_size=16", "fit.max_epochs=8", "text.encoder=none")
CONFIG = (*SMALL, "warm_start.min_validation_users=10", "gate.max_latency_ratio=100")
"""The data have few users, and a test machine is too noisy to compare latencies."""
BEGINNER = ("fit.max_epochs=1", "ranker.content_weights=0", "ranker.item_item_weights=0", "ranker.sequential_weights=0")
"""A first champion that is worse than the next, whatever the seed."""
UNTRAINED = (
    "fit.max_epochs=1",
    "fit.learning_rate=1e-9",
    "ranker.content_weights=0",
    "ranker.item_item_weights=0",
    "ranker.sequential_weights=0",
)
NEWCOMERS = 20


def sets(assignments: tuple[str, ...]) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


async def record_visits(server: Server) -> None:
    """Records clicks of newcomers on all black items except one each."""
    black = [f"item-{row}" for row in range(1, 24, 2)]
    for user in range(NEWCOMERS):
        events = [
            pb.Event(event_id=f"{user}-{item}", user_id=f"newcomer-{user}", item_id=item, type=pb.EVENT_TYPE_CLICK)
            for index, item in enumerate(black)
            if index != user % len(black)
        ]
        await server.stub.RecordEvents(pb.RecordEventsRequest(events=events), timeout=30)


def archived(folder: Path) -> bool:
    return any((folder / "events").glob("day=*/*.parquet"))


async def served_version(server: Server) -> str:
    status = await server.stub.GetServingStatus(pb.GetServingStatusRequest(), timeout=30)
    return str(status.model_version)


async def night(airflow: Airflow, day: int, **environment: str) -> bool:
    """Runs the DAG for the night `day` days from now; returns whether the run succeeded."""
    date = (datetime.now(UTC) + timedelta(days=day)).strftime("%Y-%m-%dT02:30:00")
    done = await asyncio.to_thread(airflow.test_dag, date, **environment)
    print(done.stdout)
    return done.returncode == 0


@needs_airflow
@pytest.mark.slow
async def test_nights(tmp_path: Path) -> None:
    data = write_checkerboard(tmp_path / "data")
    stack = new_stack(tmp_path / "stack", "--dataset", str(data))
    train = ("trainer", "train", *stack.dataset, *sets((*CONFIG, *BEGINNER)), "--baselines", "popularity")
    first = await run_program(*train, environment=stack.environment)
    async with valkey(tmp_path / "valkey") as store:
        environment = {**stack.environment, "TANDEM_STORE_URL": store.url}
        await run_program("feature_sync", "publish", "--prepared", first["prepared"], environment=environment)
        settings = {"registry_uri": stack.settings.registry_uri, "store_url": store.url, "http_port": free_port()}
        sync = {**environment, "TANDEM_ARCHIVE_SECONDS": "0.2", "TANDEM_SYNC_METRICS_PORT": "0"}
        async with (
            serve(tmp_path / "server", **settings) as server,
            running_program("feature_sync", "run", environment=sync),
        ):
            await record_visits(server)
            await wait_until(lambda: archived(stack.settings.data_dir), "events are archived")
            airflow = Airflow(
                tmp_path / "airflow",
                {
                    **environment,
                    "TANDEM_NIGHTLY_PYTHON": sys.executable,
                    "TANDEM_NIGHTLY_DATA": " ".join(stack.dataset),
                    "TANDEM_NIGHTLY_CONFIG": " ".join(sets(CONFIG)),
                    "TANDEM_NIGHTLY_SERVER": f"http://127.0.0.1:{server.http_port}",
                },
            )
            await check_nights(airflow, stack, server, first["model_version"])


async def check_nights(airflow: Airflow, stack: Stack, server: Server, first: str) -> None:
    registry = Registry(stack.settings)
    every_other_day = {"TANDEM_NIGHTLY_FULL_ON": (datetime.now(UTC) + timedelta(days=5)).strftime("%A")}

    assert await night(airflow, 1, **every_other_day)
    champion = registry.champion()
    assert champion is not None
    assert champion.number == "2"
    assert champion.tags[GATE_TAG] == GATE_PASSED
    assert MlflowClient(stack.settings.registry_uri).get_run(champion.run_id).data.tags[WARM_START_TAG] == "1"
    assert champion.model_version != first
    assert await served_version(server) == champion.model_version
    assert stack.bundle().manifest.training_data.num_users == 60 + NEWCOMERS
    answer = await server.recommend(user_id="newcomer-3", num_items=5)
    assert answer.model_version == champion.model_version
    assert not answer.degraded_reasons

    # A worse candidate, trained in full because it is the day for it: registered and refused.
    today_is_full = {"TANDEM_NIGHTLY_FULL_ON": (datetime.now(UTC) + timedelta(days=2)).strftime("%A")}
    worse = {"TANDEM_NIGHTLY_CONFIG": " ".join(sets((*CONFIG, *UNTRAINED)))}
    assert await night(airflow, 2, **today_is_full, **worse)
    assert registry.find("3").tags[GATE_TAG] == GATE_REFUSED
    assert registry.champion() == champion

    # A night whose data do not exist.
    assert not await night(airflow, 3, **every_other_day, TANDEM_NIGHTLY_DATA="--dataset nowhere.toml")
    assert registry.champion() == champion
    assert await served_version(server) == champion.model_version

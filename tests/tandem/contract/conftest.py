"""A small bundle whose ONNX and FAISS files are arbitrary bytes: the contract never opens those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tandem.contract import names
from tandem.contract.bundle_contents import BundleParts, GoldenQueries
from tandem.contract.features import FeatureSchema, UserFeature
from tandem.contract.held_out_users import HeldOutUser
from tandem.contract.items import Item, ItemTable
from tandem.contract.manifest import IndexSpec, Manifest, TensorSpec, TowerSpec, TrainingData
from tandem.contract.store import UserState
from tandem.contract.vocabulary import Vocabulary, id_keys

ITEM_IDS = ["50", "172", "é", "181"]
USER_IDS = ["196", "42"]
DIM = 3


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        model_version="ml-100k-20260101-abcdef",
        created_at="2026-01-01T00:00:00+00:00",
        training_data=TrainingData("ml-100k", "f" * 64, num_users=2, num_items=4, num_interactions=9),
        feature_schema=FeatureSchema(
            history_length=2, user_features=(UserFeature("age", boundaries=(18.0,)),), user_ids=True
        ),
        user_tower=TowerSpec(
            inputs=(TensorSpec(names.HISTORY_VECTORS, "float32", ("batch", 2, DIM)),),
            outputs=(TensorSpec(names.USER_VECTOR, "float32", ("batch", DIM)),),
        ),
        item_tower=TowerSpec(
            inputs=(TensorSpec(names.ITEM_INDEX, "int64", ("batch",)),),
            outputs=(TensorSpec(names.ITEM_VECTOR, "float32", ("batch", DIM)),),
        ),
        embedding_dim=DIM,
        similarity="cosine",
        index=IndexSpec("IVF1,Flat", nprobe=1, recall_at_100=1.0),
        metrics={"test/ndcg@10": 0.1},
        onnx_max_abs_difference=1e-7,
    )


@pytest.fixture
def parts(tmp_path: Path) -> BundleParts:
    for name in ("user.onnx", "item.onnx", "index.faiss"):
        (tmp_path / name).write_bytes(f"the bytes of {name}".encode() * 10)
    return BundleParts(
        user_tower=tmp_path / "user.onnx",
        item_tower=tmp_path / "item.onnx",
        index=tmp_path / "index.faiss",
        item_vectors=np.arange(len(ITEM_IDS) * DIM, dtype=np.float32).reshape(-1, DIM),
        items=ItemTable.from_items([Item(item_id, f"title {item_id}", ("Drama",), {}, 3) for item_id in ITEM_IDS]),
        item_vocabulary=Vocabulary.from_ids(ITEM_IDS),
        top_items={names.SEGMENT_ALL: np.array([2, 0, 1, 3]), names.CATEGORY_SEGMENT + "Drama": np.array([2, 0])},
        golden_queries=GoldenQueries(
            {names.HISTORY_VECTORS: np.ones((2, 2, DIM), np.float32)}, np.array([[0, 1], [3, 2]])
        ),
        held_out_users=(
            HeldOutUser(
                "196",
                UserState.from_events(
                    id_keys(["50"]), np.array([5], np.uint8), np.array([7], np.int64), features={"age": "49"}
                ),
                "172",
            ),
        ),
        user_vocabulary=Vocabulary.from_ids(USER_IDS),
    )

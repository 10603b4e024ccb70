from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.errors import BundleCorrupt
from tandem.contract.features import encode_users
from tandem.contract.store import UserState
from tandem.ops.onnx_session import OnnxSession
from tests.support.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("onnx") / "bundle")


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_the_output_by_name_is_the_first_and_tensors_that_are_not_read_are_left_out(
    bundle: Bundle, threads: int
) -> None:
    tower = OnnxSession(bundle.user_tower, threads=threads)
    assert tower.outputs == [names.USER_VECTOR]
    assert set(tower.inputs) == {spec.name for spec in bundle.manifest.user_tower.inputs}
    tensors = encode_users(
        [UserState(), UserState()],
        schema=bundle.manifest.feature_schema,
        item_vocabulary=bundle.item_vocabulary,
        item_vectors=bundle.item_vectors,
    )
    tensors["nothing reads this"] = np.zeros(2)
    vectors = tower(tensors)
    assert vectors.shape == (2, bundle.manifest.embedding_dim)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(tower(tensors, names.USER_VECTOR), vectors)


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "user_tower.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"^user_tower\.onnx: ONNX Runtime cannot open it: "):
        OnnxSession(path)

"""Ways to break a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import onnx
from onnx import numpy_helper

from tests.inference_server.conftest import build
from tests.support.checksums import correct_checksums


def copy_of(bundle: Path, to: Path) -> Path:
    shutil.copytree(bundle, to)
    return to


def flipped_byte_in_index(directory: Path) -> None:
    path = directory / "index.faiss"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated_index(directory: Path) -> None:
    path = directory / "index.faiss"
    path.write_bytes(path.read_bytes()[:-1000])


def truncated_index_with_right_checksum(directory: Path) -> None:
    truncated_index(directory)
    correct_checksums(directory)


def missing_tower(directory: Path) -> None:
    (directory / "user_tower.onnx").unlink()


def nan_item_vectors(directory: Path) -> None:
    """NaN in the vectors, with the checksum corrected: only a look at the values can find it."""
    path = directory / "item_vectors.npy"
    vectors = np.load(path)
    vectors[5, 3] = np.nan
    np.save(path, vectors)
    correct_checksums(directory)


def nan_user_vectors(directory: Path) -> None:
    """A user tower that makes NaN of every user, in a bundle whose files all match the manifest."""
    path = directory / "user_tower.onnx"
    tower = onnx.load(str(path))
    for index, constant in enumerate(tower.graph.initializer):
        if constant.name == "epsilon":
            nan = numpy_helper.from_array(np.array(np.nan, np.float32), "epsilon")
            tower.graph.initializer[index].CopyFrom(nan)
    onnx.save(tower, str(path))
    correct_checksums(directory)


def garbage_tower(directory: Path) -> None:
    (directory / "user_tower.onnx").write_bytes(b"not a model")
    correct_checksums(directory)


def tower_of_another_dimension(directory: Path) -> None:
    other = build(directory.parent / f"{directory.name}-other", dim=8)
    shutil.copyfile(other.user_tower, directory / "user_tower.onnx")
    correct_checksums(directory)


def item_tower_in_place_of_the_user_tower(directory: Path) -> None:
    shutil.copyfile(directory / "item_tower.onnx", directory / "user_tower.onnx")
    correct_checksums(directory)


def wrong_dimension(directory: Path) -> None:
    """The index of another model, with 8 dimensions where the bundle has 16."""
    other = build(directory.parent / f"{directory.name}-other", dim=8)
    shutil.copyfile(other.index, directory / "index.faiss")
    correct_checksums(directory)


def shuffled_index(directory: Path) -> None:
    """A complete index that fits the bundle, but holds its vectors under the wrong rows."""
    path = directory / "index.faiss"
    vectors = np.load(directory / "item_vectors.npy")[::-1].copy()
    index = faiss.index_factory(vectors.shape[1], "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(path))
    correct_checksums(directory)


DEFECTS: dict[Callable[[Path], None], tuple[str, str]] = {
    flipped_byte_in_index: ("corrupt", "index.faiss has SHA-256"),
    truncated_index: ("corrupt", "index.faiss has "),
    truncated_index_with_right_checksum: ("corrupt", "index.faiss: FAISS cannot read it"),
    missing_tower: ("corrupt", "user_tower.onnx is missing"),
    nan_item_vectors: ("corrupt", "NaN"),
    nan_user_vectors: ("golden_queries", "NaN"),
    garbage_tower: ("corrupt", "user_tower.onnx: ONNX Runtime cannot open it"),
    tower_of_another_dimension: ("incompatible", "user_tower.onnx fails on a user's tensors"),
    item_tower_in_place_of_the_user_tower: ("incompatible", "user_tower.onnx reads item_index"),
    wrong_dimension: ("incompatible", "index.faiss has dimension 8"),
    shuffled_index: ("golden_queries", "the index finds 0."),
}
"""For each defect: the kind of refusal, and a part of its reason."""

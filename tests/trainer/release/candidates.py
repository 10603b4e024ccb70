"""Bundles of known quality in a real registry: candidates for the gate.

A tiny bundle's user tower is the mean of the history, so its ranking follows from its vectors. The held-out items come
from the ranking by the good vectors, so any damage to the vectors costs quality.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.held_out_users import HeldOutUser, write_held_out_users
from tandem.ops.model_registry import RegisteredVersion
from tests.support.checksums import correct_checksums
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle, mean_vector, state_of
from trainer.registry.registry import Registry

NUM_USERS = 120
NUM_ITEMS = 200
DIM = 16
VECTORS: npt.NDArray[np.float32] = np.random.default_rng(7).standard_normal((NUM_ITEMS, DIM), dtype=np.float32)
_SLOW_WIDTH = 2_048
_SLOW_STEPS = 12


def good_bundle(directory: Path, model_version: str, **spec: object) -> Bundle:
    """Builds a bundle with the good vectors and the users of `held_out_users`."""
    vectors = spec.pop("item_vectors", VECTORS)
    built = build_tiny_bundle(
        directory, TinySpec(model_version=model_version, item_vectors=vectors, num_items=len(vectors), **spec)
    )
    write_held_out_users(directory / "held_out_users.jsonl", held_out_users(directory.parent))
    correct_checksums(directory)
    return built


def held_out_users(scratch: Path) -> list[HeldOutUser]:
    """Users whose held-out item is among the first four of the ranking by the good vectors."""
    reference = scratch / "reference"
    if reference.exists():
        shutil.rmtree(reference)
    bundle = build_tiny_bundle(reference, TinySpec(num_items=NUM_ITEMS, item_vectors=VECTORS))
    generator = np.random.default_rng(0)
    users = []
    for number in range(NUM_USERS):
        rows = generator.choice(NUM_ITEMS, size=3, replace=False).tolist()
        history = bundle.items.item_ids(rows)
        scores = bundle.item_vectors @ mean_vector(bundle, history)
        order = [row for row in np.argsort(-scores, kind="stable").tolist() if row not in rows]
        (target,) = bundle.items.item_ids([order[number % 4]])
        users.append(HeldOutUser(f"user-{number}", state_of(history), target))
    return users


def shuffled(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same vectors, assigned to other items."""
    return np.random.default_rng(1).permutation(vectors)


def noisy(vectors: npt.NDArray[np.float32], share: float) -> npt.NDArray[np.float32]:
    """The vectors with noise whose length is `share` of theirs."""
    noise = np.random.default_rng(2).standard_normal(vectors.shape, dtype=np.float32)
    return (vectors + share * noise).astype(np.float32)


def slow_user_tower(directory: Path) -> None:
    """Makes the user tower slow, with the same output: it adds zero, after a series of matrix products."""
    path = directory / "user_tower.onnx"
    tower = onnx.load(str(path))
    generator = np.random.default_rng(3)
    constants = {
        "wide": generator.standard_normal((DIM, _SLOW_WIDTH), dtype=np.float32),
        "square": generator.standard_normal((_SLOW_WIDTH, _SLOW_WIDTH), dtype=np.float32) / _SLOW_WIDTH,
        "nothing": np.zeros((_SLOW_WIDTH, DIM), dtype=np.float32),
    }
    for node in tower.graph.node:
        node.output[:] = ["quick" if name == names.USER_VECTOR else name for name in node.output]
    steps = [f"step-{number}" for number in range(_SLOW_STEPS + 1)]
    tower.graph.node.extend(
        [
            helper.make_node("MatMul", ["quick", "wide"], [steps[0]]),
            *(helper.make_node("MatMul", [step, "square"], [after]) for step, after in pairwise(steps)),
            helper.make_node("MatMul", [steps[-1], "nothing"], ["detour"]),
            helper.make_node("Add", ["quick", "detour"], [names.USER_VECTOR]),
        ]
    )
    tower.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(tower, str(path))
    correct_checksums(directory)


def register(
    registry: Registry,
    directory: Path,
    model_version: str,
    *,
    damage: Callable[[Path], None] | None = None,
    **spec: object,
) -> RegisteredVersion:
    """Registers a bundle as a new version of the model."""
    bundle = directory / model_version
    good_bundle(bundle, model_version, **spec)
    if damage is not None:
        damage(bundle)
    with registry.start_run(model_version) as run:
        source = run.log_bundle(bundle)
        return registry.register(run, source, model_version=model_version, training_fingerprint=model_version)

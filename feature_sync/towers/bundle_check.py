"""The check of a bundle before feature_sync works with it: every file opens, and both towers run.

Runs in a child process (see `bundles.checked`). The server's check asks for more; here nothing is recommended.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from feature_sync.core.errors import TowerError
from feature_sync.towers.checked_tower import CheckedTower
from feature_sync.towers.user_tower import UserTower
from tandem.contract import names
from tandem.contract.bundle import read_bundle
from tandem.contract.errors import BundleError, BundleIncompatible, unreadable_bundles
from tandem.contract.features import Tensors
from tandem.contract.manifest import TensorSpec
from tandem.contract.store import UserState


def check_bundle(directory: Path) -> None:
    """Raises BundleError unless the bundle is whole, and its towers make vectors of the right shape."""
    with unreadable_bundles("the bundle cannot be opened"):
        bundle = read_bundle(directory)
        dim = bundle.manifest.embedding_dim
        golden = bundle.golden_queries
        try:
            user_tower = CheckedTower(bundle.user_tower, threads=1)
            if len(golden.expected_rows):
                user_tower.run(golden.inputs, names.USER_VECTOR, (len(golden.expected_rows), dim))
            UserTower(bundle, threads=1).vectors([""], [UserState()])
            item_tower = CheckedTower(bundle.item_tower, threads=1)
            item_tower.run(_zeros(bundle.manifest.item_tower.inputs), names.ITEM_VECTOR, (1, dim))
        except TowerError as error:
            raise BundleIncompatible(str(error)) from error


def refusal(directory: Path) -> Mapping[str, object]:
    """The child's result: empty for a bundle that may be used, else why not."""
    try:
        check_bundle(directory)
    except BundleError as error:
        return {"reason": str(error), "incompatible": isinstance(error, BundleIncompatible)}
    return {}


def _zeros(specs: tuple[TensorSpec, ...]) -> Tensors:
    """Inputs for one item; a dimension that has a name instead of a size has the size 1."""
    return {
        spec.name: np.zeros([size if isinstance(size, int) else 1 for size in spec.shape], dtype=spec.dtype)
        for spec in specs
    }

"""The user tower in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.errors import BundleIncompatible
from tandem.contract.features import FeatureSchema, Tensors
from tandem.ops.onnx_session import OnnxSession


class UserTower:
    """User state as tensors -> user vector. Safe to call from several threads; the call releases the GIL."""

    def __init__(self, path: Path, schema: FeatureSchema) -> None:
        """Opens a tower. Raises BundleCorrupt when ONNX Runtime cannot, BundleIncompatible on unknown tensors."""
        self._session = OnnxSession(path, threads=1)
        if unknown := sorted(set(self._session.inputs) - _known_inputs(schema)):
            raise BundleIncompatible(f"{path.name} reads {', '.join(unknown)}, which the feature schema does not make")
        if names.USER_VECTOR not in self._session.outputs:
            raise BundleIncompatible(f"{path.name} does not put out {names.USER_VECTOR}")

    def encode(self, tensors: Tensors) -> npt.NDArray[np.float32]:
        """Vectors of a batch of users, from inputs as `features.encode_users` makes them: (users, dim) float32."""
        return self._session(tensors, names.USER_VECTOR)


def _known_inputs(schema: FeatureSchema) -> set[str]:
    known = set(names.HISTORY)
    if schema.user_features:
        known.add(names.USER_FEATURE_CODES)
    if schema.user_ids:
        known.add(names.USER_INDEX)
    return known

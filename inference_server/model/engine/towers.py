"""The user tower in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from inference_server.model.engine.onnx import open_session
from tandem.contract import names
from tandem.contract.errors import BundleIncompatible
from tandem.contract.features import FeatureSchema, Tensors, tower_inputs


class UserTower:
    """User state as tensors -> user vector. Safe to call from several threads; the call releases the GIL."""

    def __init__(self, path: Path, schema: FeatureSchema) -> None:
        """Opens a tower. Raises BundleCorrupt when ONNX Runtime cannot, BundleIncompatible on unknown tensors."""
        self._session = open_session(path)
        # An exporter may drop an input that the model ignores, so the tower may read fewer tensors than there are.
        self._inputs = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        if unknown := sorted(set(self._inputs) - _known_inputs(schema)):
            raise BundleIncompatible(f"{path.name} reads {', '.join(unknown)}, which the feature schema does not make")
        if names.USER_VECTOR not in [tensor.name for tensor in self._session.get_outputs()]:
            raise BundleIncompatible(f"{path.name} does not put out {names.USER_VECTOR}")

    def encode(self, tensors: Tensors) -> npt.NDArray[np.float32]:
        """Vectors of a batch of users, from inputs as `features.encode_users` makes them: (users, dim) float32."""
        inputs = tower_inputs(tensors, self._inputs)
        vectors: npt.NDArray[np.float32] = self._session.run([names.USER_VECTOR], inputs)[0]
        return vectors


def _known_inputs(schema: FeatureSchema) -> set[str]:
    known = set(names.HISTORY)
    if schema.user_features:
        known.add(names.USER_FEATURE_CODES)
    if schema.user_ids:
        known.add(names.USER_INDEX)
    return known

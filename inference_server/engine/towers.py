"""The user tower in ONNX Runtime. The only module that imports onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from tandem.contract import names
from tandem.contract.errors import BundleCorrupt, BundleIncompatible
from tandem.contract.features import FeatureSchema, Tensors

# ONNX Runtime raises one class per status code and no common base but Exception.
_OPEN_ERRORS = (
    onnxruntime_errors.Fail,
    onnxruntime_errors.InvalidArgument,
    onnxruntime_errors.InvalidGraph,
    onnxruntime_errors.InvalidProtobuf,
    onnxruntime_errors.NoSuchFile,
    onnxruntime_errors.NotImplemented,
    onnxruntime_errors.RuntimeException,
)


class UserTower:
    """User state as tensors -> user vector. Safe to call from several threads; the call releases the GIL."""

    def __init__(self, path: Path, schema: FeatureSchema) -> None:
        """Opens a tower. Raises BundleCorrupt when ONNX Runtime cannot, BundleIncompatible on unknown tensors."""
        options = onnxruntime.SessionOptions()
        # One request is one small matrix product: a thread pool inside the session only costs, and a spinning one burns
        # the core that the event loop needs.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _OPEN_ERRORS as error:
            raise BundleCorrupt(f"{path.name}: ONNX Runtime cannot open it: {error}") from error
        # An exporter may drop an input that the model ignores, so the tower may read fewer tensors than there are.
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        if unknown := sorted(set(self._inputs) - _known_inputs(schema)):
            raise BundleIncompatible(f"{path.name} reads {', '.join(unknown)}, which the feature schema does not make")
        if names.USER_VECTOR not in [tensor.name for tensor in self._session.get_outputs()]:
            raise BundleIncompatible(f"{path.name} does not put out {names.USER_VECTOR}")

    def encode(self, tensors: Tensors) -> npt.NDArray[np.float32]:
        """Vectors of a batch of users, from inputs as `features.encode_users` makes them: (users, dim) float32."""
        feeds = {name: tensors[name] for name in self._inputs}
        vectors: npt.NDArray[np.float32] = self._session.run([names.USER_VECTOR], feeds)[0]
        return vectors


def _known_inputs(schema: FeatureSchema) -> set[str]:
    known = {names.HISTORY_VECTORS, names.HISTORY_EVENT_CODES, names.HISTORY_AGES}
    if schema.user_features:
        known.add(names.USER_FEATURE_CODES)
    if schema.user_ids:
        known.add(names.USER_INDEX)
    return known

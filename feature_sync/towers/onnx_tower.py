"""A tower of a bundle in ONNX Runtime.

This is the only module of feature_sync that imports onnxruntime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from feature_sync.core.errors import TowerError
from tandem.contract.features import Tensors, tower_inputs


class OnnxTower:
    """One tower, opened."""

    def __init__(self, path: Path, *, threads: int) -> None:
        """Opens the file; `threads` 0 leaves their number to ONNX Runtime. Raises TowerError."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base; each means that the file cannot be run
            raise TowerError(f"{path} cannot be opened: {error}") from error
        self._inputs = {node.name: node.shape for node in self._session.get_inputs()}
        self._path = path

    def run(self, inputs: Tensors, output: str, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """The output for a batch, float32 of the shape that is expected. Raises TowerError."""
        try:
            (vectors,) = self._session.run([output], tower_inputs(inputs, self._inputs))
        except Exception as error:  # as above: the input's names, types or shapes do not fit the file
            raise TowerError(f"{self._path} failed: {error}") from error
        if vectors.shape != shape or not np.isfinite(vectors).all():
            raise TowerError(f"{self._path} answered {vectors.shape} for {shape}, or values that are not finite")
        return np.asarray(vectors, dtype=np.float32)

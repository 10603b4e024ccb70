"""Runs exported towers and rankers. The only module of the trainer that imports ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tandem.contract.features import Tensors, tower_inputs


class OnnxTower:
    """A tower, or a ranker, as it is served."""

    def __init__(self, path: Path) -> None:
        """Opens an exported model on the CPU."""
        self._session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.inputs = {node.name: node.shape for node in self._session.get_inputs()}
        """Their shapes by name."""

    def __call__(self, tensors: Tensors) -> npt.NDArray[np.float32]:
        """Runs a batch; tensors the tower does not read are left out. Returns (batch, ...) float32."""
        return np.asarray(self._session.run(None, tower_inputs(tensors, self.inputs))[0], dtype=np.float32)

"""A tower of a bundle whose answers are checked before they go to the store, where servers trust them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from feature_sync.core.errors import TowerError
from tandem.contract.features import Tensors
from tandem.ops.onnx_session import OnnxSession


class CheckedTower:
    """One tower, opened."""

    def __init__(self, path: Path, *, threads: int) -> None:
        """Opens the file; `threads` 0 leaves their number to ONNX Runtime. Raises TowerError."""
        try:
            self._session = OnnxSession(path, threads=threads)
        except Exception as error:  # onnxruntime's exceptions share no base; each means that the file cannot be run
            raise TowerError(f"{path} cannot be opened: {error.__cause__ or error}") from error
        self._path = path

    def run(self, inputs: Tensors, output: str, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """The output for a batch, float32 of the shape that is expected. Raises TowerError."""
        try:
            vectors = self._session(inputs, output)
        except Exception as error:  # as above: the input's names, types or shapes do not fit the file
            raise TowerError(f"{self._path} failed: {error}") from error
        if vectors.shape != shape or not np.isfinite(vectors).all():
            raise TowerError(f"{self._path} answered {vectors.shape} for {shape}, or values that are not finite")
        return vectors

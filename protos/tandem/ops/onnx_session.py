"""Towers and rankers of a bundle in ONNX Runtime. The only module that imports onnxruntime."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from tandem.contract.errors import BundleCorrupt
from tandem.contract.features import Tensors, tower_inputs

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

_EXTERNAL_DATA: Final = b"\n\x08location\x12"
"""How the entry "location" of a tensor's `external_data` begins in the file."""


class OnnxSession:
    """One model, opened on the CPU. Calls are safe from several threads and release the GIL."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        """`threads` is the number of threads of one call; 0 lets ONNX Runtime choose. Raises BundleCorrupt."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if threads == 1:
            # The callers run an event loop on the same core. A batch is one small matrix product: a thread pool inside
            # the session costs more than it saves, and a spinning pool takes the core from the event loop.
            options.inter_op_num_threads = 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        _refuse_external_data(path)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _OPEN_ERRORS as error:
            raise BundleCorrupt(f"{path.name}: ONNX Runtime cannot open it: {error}") from error
        self.inputs: dict[str, list[int | str | None]] = {node.name: node.shape for node in self._session.get_inputs()}
        """Input name -> shape; a dynamic dimension is a name or None. An exporter may drop an input that the model does
        not use, so some inputs of the manifest may be missing."""
        self.outputs: list[str] = [node.name for node in self._session.get_outputs()]
        """Output names, in the order of the model."""

    def __call__(self, tensors: Tensors, output: str | None = None) -> npt.NDArray[np.float32]:
        """Runs a batch and returns the output named `output`, by default the first: (batch, ...) float32.

        `tower_inputs` drops the tensors that the model does not read. If names, types or shapes do not fit the model,
        raises the exceptions of ONNX Runtime, which have no common base class.
        """
        feeds = tower_inputs(tensors, self.inputs)
        return np.asarray(self._session.run([output or self.outputs[0]], feeds)[0], dtype=np.float32)


def _refuse_external_data(path: Path) -> None:
    """Raises BundleCorrupt if a tensor is kept in another file, which no checksum covers and which may lie anywhere."""
    try:
        with path.open("rb") as model, mmap.mmap(model.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = content.find(_EXTERNAL_DATA)
    except (OSError, ValueError) as error:
        raise BundleCorrupt(f"{path.name}: ONNX Runtime cannot open it: {error}") from error
    if found >= 0:
        raise BundleCorrupt(f"{path.name}: keeps tensors in another file")

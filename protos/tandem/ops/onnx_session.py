"""Towers and rankers of a bundle in ONNX Runtime. The only module that imports onnxruntime."""

from __future__ import annotations

from pathlib import Path

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


class OnnxSession:
    """One model, opened on the CPU. Calls are safe from several threads and release the GIL."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        """`threads` is how many cores one call may use; 0 leaves that to ONNX Runtime. Raises BundleCorrupt."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if threads == 1:
            # Asked for beside an event loop. A batch is one small matrix product: a thread pool inside the session only
            # costs, and a spinning one burns the core that the event loop needs.
            options.inter_op_num_threads = 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _OPEN_ERRORS as error:
            raise BundleCorrupt(f"{path.name}: ONNX Runtime cannot open it: {error}") from error
        self.inputs: dict[str, list[int | str | None]] = {node.name: node.shape for node in self._session.get_inputs()}
        """Shapes by name; a dimension that differs from call to call has a name or None. An exporter may drop an input
        that the model ignores, so there may be fewer than the manifest's."""
        self.outputs: list[str] = [node.name for node in self._session.get_outputs()]
        """Names, in the model's order."""

    def __call__(self, tensors: Tensors, output: str | None = None) -> npt.NDArray[np.float32]:
        """The output of that name, or else the first, for a batch: (batch, ...) float32.

        Tensors that the model does not read are left out, see `tower_inputs`. Raises ONNX Runtime's exceptions, which
        share no base, where names, types or shapes do not fit the model.
        """
        feeds = tower_inputs(tensors, self.inputs)
        return np.asarray(self._session.run([output or self.outputs[0]], feeds)[0], dtype=np.float32)

"""ONNX Runtime sessions as this server runs them. The only module that imports onnxruntime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from tandem.contract.errors import BundleCorrupt

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


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Opens a model; its runs release the GIL and are safe from several threads. Raises BundleCorrupt."""
    options = onnxruntime.SessionOptions()
    # A batch is one small matrix product: a thread pool inside the session only costs, and a spinning one burns the
    # core that the event loop needs.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _OPEN_ERRORS as error:
        raise BundleCorrupt(f"{path.name}: ONNX Runtime cannot open it: {error}") from error

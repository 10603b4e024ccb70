"""The towers of a synthetic bundle, built node by node: the benchmark needs their cost, not a trained model.

The user tower is one transformer block over the history (self-attention, then a feed-forward layer, each with its
residual), the mean over the events present, normalised to length 1. Its weights are small random numbers, so the
residuals dominate and a user's vector lies near the items of their history, as after training.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tandem.contract import names
from tandem.contract.manifest import TensorSpec, TowerSpec

_FEED_FORWARD: Final = 4
_WEIGHT: Final = 0.05
_ITEM_ROWS: Final = 1024


def user_tower(*, dim: int, history_length: int, seed: int) -> onnx.ModelProto:
    """History of (batch, history_length, dim) float32 with event codes -> (batch, dim) float32 of length 1."""
    rng = np.random.default_rng(seed)

    def weights(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return (rng.standard_normal((rows, columns)) * _WEIGHT).astype(np.float32)

    constants: dict[str, npt.NDArray[np.generic]] = {
        "zero": np.array(0, np.int64),
        "time": np.array([1], np.int64),
        "last": np.array([2], np.int64),
        "one": np.array(1.0, np.float32),
        "far": np.array(-1e4, np.float32),
        "scale": np.array(dim**-0.5, np.float32),
        "epsilon": np.array(1e-12, np.float32),
        "w_query": weights(dim, dim),
        "w_key": weights(dim, dim),
        "w_value": weights(dim, dim),
        "w_up": weights(dim, _FEED_FORWARD * dim),
        "w_down": weights(_FEED_FORWARD * dim, dim),
    }
    history = names.HISTORY_VECTORS
    node = helper.make_node
    nodes = [
        node("Greater", [names.HISTORY_EVENT_CODES, "zero"], ["present"]),
        node("Cast", ["present"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], ["mask_3d"]),
        node("Unsqueeze", ["mask", "time"], ["mask_keys"]),
        node("Sub", ["one", "mask_keys"], ["absent"]),
        node("Mul", ["absent", "far"], ["penalty"]),
        node("MatMul", [history, "w_query"], ["query"]),
        node("MatMul", [history, "w_key"], ["key"]),
        node("MatMul", [history, "w_value"], ["value"]),
        node("Transpose", ["key"], ["key_t"], perm=[0, 2, 1]),
        node("MatMul", ["query", "key_t"], ["raw_scores"]),
        node("Mul", ["raw_scores", "scale"], ["scores"]),
        node("Add", ["scores", "penalty"], ["masked_scores"]),
        node("Softmax", ["masked_scores"], ["attention"], axis=-1),
        node("MatMul", ["attention", "value"], ["attended"]),
        node("Add", [history, "attended"], ["block"]),
        node("MatMul", ["block", "w_up"], ["up"]),
        node("Relu", ["up"], ["active"]),
        node("MatMul", ["active", "w_down"], ["down"]),
        node("Add", ["block", "down"], ["encoded"]),
        node("Mul", ["encoded", "mask_3d"], ["events"]),
        node("ReduceSum", ["events", "time"], ["total"], keepdims=0),
        node("ReduceL2", ["total", "time"], ["length"], keepdims=1),
        node("Max", ["length", "epsilon"], ["safe_length"]),
        node("Div", ["total", "safe_length"], [names.USER_VECTOR]),
    ]
    spec = user_tower_spec(dim=dim, history_length=history_length)
    return _model(nodes, spec, constants)


def user_tower_spec(*, dim: int, history_length: int) -> TowerSpec:
    """Tensors of `user_tower`."""
    return TowerSpec(
        (
            TensorSpec(names.HISTORY_VECTORS, "float32", ("batch", history_length, dim)),
            TensorSpec(names.HISTORY_EVENT_CODES, "int64", ("batch", history_length)),
        ),
        (TensorSpec(names.USER_VECTOR, "float32", ("batch", dim)),),
    )


def item_tower(*, dim: int, seed: int) -> onnx.ModelProto:
    """Item index -> an arbitrary vector. No benchmark runs it, so it needs no table of the whole catalogue."""
    rng = np.random.default_rng(seed)
    constants: dict[str, npt.NDArray[np.generic]] = {
        "rows": np.array(_ITEM_ROWS, np.int64),
        "table": rng.standard_normal((_ITEM_ROWS, dim)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Mod", [names.ITEM_INDEX, "rows"], ["row"]),
        helper.make_node("Gather", ["table", "row"], [names.ITEM_VECTOR], axis=0),
    ]
    return _model(nodes, item_tower_spec(dim=dim), constants)


def item_tower_spec(*, dim: int) -> TowerSpec:
    """Tensors of `item_tower`."""
    return TowerSpec(
        (TensorSpec(names.ITEM_INDEX, "int64", ("batch",)),),
        (TensorSpec(names.ITEM_VECTOR, "float32", ("batch", dim)),),
    )


def _model(
    nodes: list[onnx.NodeProto], spec: TowerSpec, constants: dict[str, npt.NDArray[np.generic]]
) -> onnx.ModelProto:
    def value_info(tensor: TensorSpec) -> onnx.ValueInfoProto:
        kind = TensorProto.FLOAT if tensor.dtype == "float32" else TensorProto.INT64
        return helper.make_tensor_value_info(tensor.name, kind, tensor.shape)

    graph = helper.make_graph(
        nodes,
        "synthetic",
        [value_info(tensor) for tensor in spec.inputs],
        [value_info(tensor) for tensor in spec.outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model

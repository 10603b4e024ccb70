"""A PyTorch module to ONNX with a dynamic batch, checked against PyTorch on inputs that the export has not seen."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tandem.contract.features import Tensors
from tandem.contract.manifest import TensorSpec, TowerSpec
from tandem.ops.onnx_session import OnnxSession
from trainer.core.errors import ExportError

MAX_ABS_DIFFERENCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch that an export may show."""
_PARITY_BATCHES = (1, 3, 64)
logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operators of packages that are not installed
Sample = Callable[[int], Tensors]
"""Draws inputs of a batch of that size."""


@dataclass(frozen=True)
class ExportedNetwork:
    """A tower, or a ranker, on disk."""

    path: Path
    spec: TowerSpec
    max_abs_difference: float
    """Against PyTorch, over batches of several sizes."""


@dataclass(frozen=True)
class NetworkOutput:
    """The one output of a network."""

    name: str
    dim: int | None
    """None where each of the batch gives one number."""

    @property
    def spec(self) -> TensorSpec:
        """float32."""
        return TensorSpec(self.name, "float32", ("batch",) if self.dim is None else ("batch", self.dim))


def export_network(
    module: nn.Module,
    arguments: Sequence[str],
    sample: Sample,
    path: Path,
    output: NetworkOutput,
    *,
    shorter: Collection[str] = (),
) -> ExportedNetwork:
    """Writes a module to a file.

    `arguments` are the parameters of `module.forward` in order; those absent from a sample are passed None. Of those in
    `shorter` the second dimension may be smaller than the sample's. Raises ExportError where ONNX differs from PyTorch.
    """
    module = module.eval().cpu()
    # Batch 2, and every example input an array of its own: a shared tensor or a batch of 1 is baked into the graph.
    example = sample(2)
    present = [name for name in arguments if name in example]
    dims = {name: ("batch", "events") if name in shorter else ("batch",) for name in present}
    dynamic = {dim: torch.export.Dim(dim, min=1) for dim in ("batch", "events")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        torch.onnx.export(
            module,
            kwargs={name: torch.from_numpy(example[name]) for name in present},
            f=str(path),
            input_names=present,
            output_names=[output.name],
            dynamic_shapes={name: {axis: dynamic[dim] for axis, dim in enumerate(dims[name])} for name in present},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    tower = OnnxSession(path)
    if missing := sorted(set(present) - set(tower.inputs)):
        raise ExportError(f"{path.name}: the exporter dropped the inputs {', '.join(missing)}")
    difference = max(_difference(module, tower, sample(size)) for size in _PARITY_BATCHES)
    if not difference <= MAX_ABS_DIFFERENCE:  # NaN fails too
        raise ExportError(
            f"{path.name}: differs from PyTorch by {difference:.2e}, at most {MAX_ABS_DIFFERENCE:.0e} allowed"
        )
    inputs = tuple(
        TensorSpec(name, str(example[name].dtype), (*dims[name], *example[name].shape[len(dims[name]) :]))
        for name in present
    )
    return ExportedNetwork(path, TowerSpec(inputs, (output.spec,)), difference)


def _difference(module: nn.Module, tower: OnnxSession, tensors: Tensors) -> float:
    with torch.inference_mode():
        expected = module(**{name: torch.from_numpy(array) for name, array in tensors.items()}).numpy()
    return float(np.abs(tower(tensors) - expected).max())

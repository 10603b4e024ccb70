"""Exports a PyTorch module to ONNX with a dynamic batch, and compares both on inputs that the export has not seen."""

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
"""Maximum difference between the outputs of ONNX Runtime and PyTorch."""
_PARITY_BATCHES = (1, 3, 64)
logging.getLogger("torch.onnx").setLevel(
    logging.ERROR
)  # its warnings concern operators of packages that are not installed
Sample = Callable[[int], Tensors]
"""Draws inputs for a batch of the given size."""


@dataclass(frozen=True)
class ExportedNetwork:
    """A tower or a ranker on disk."""

    path: Path
    spec: TowerSpec
    max_abs_difference: float
    """Largest difference from PyTorch in batches of several sizes."""


@dataclass(frozen=True)
class NetworkOutput:
    """The only output of a network."""

    name: str
    dim: int | None
    """None if the output is a single number for each row of the batch."""

    @property
    def spec(self) -> TensorSpec:
        """The specification of the output, which is float32."""
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
    """Exports a module to a file.

    `arguments` are the parameters of `module.forward` in order; a parameter that is not in the sample is None. The
    second dimension of the parameters in `shorter` may be smaller than in the sample. Raises ExportError if the outputs
    of ONNX differ from PyTorch's.
    """
    module = module.eval().cpu()
    # A batch of 2 with a separate array for every input: a shared tensor or a batch of 1 would become constant.
    example = sample(2)
    present = [name for name in arguments if name in example]
    dims = {name: ("batch", "events") if name in shorter else ("batch",) for name in present}
    dynamic = {"batch": torch.export.Dim("batch", min=1)}
    if shorter:
        # The maximum is that of a table of positions; the exporter would find it in a second run.
        longest = max(example[name].shape[1] for name in shorter)
        dynamic["events"] = torch.export.Dim("events", min=1, max=longest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they concern internals of the exporter
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

"""Towers and ranker to ONNX with a dynamic batch, checked against PyTorch on inputs the export has not seen."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tandem.contract import names
from tandem.contract.features import FeatureSchema, Tensors
from tandem.contract.manifest import TensorSpec, TowerSpec
from tandem.ops.onnx_session import OnnxSession
from trainer.core.errors import ExportError
from trainer.models.ncf import NcfRanker
from trainer.models.two_tower import TwoTowerModel

MAX_ABS_DIFFERENCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch that an export may show."""
_PARITY_BATCHES = (1, 3, 64)
logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operators of packages that are not installed
_Sample = Callable[[int], Tensors]


@dataclass(frozen=True)
class ExportedTower:
    """A tower, or a ranker, on disk."""

    path: Path
    spec: TowerSpec
    max_abs_difference: float
    """Against PyTorch, over batches of several sizes."""


def export_item_tower(model: TwoTowerModel, item_tensors: Tensors, path: Path, *, dim: int) -> ExportedTower:
    """Writes the item tower. `item_tensors` are the catalogue's; parity is checked on random rows of them."""
    count = len(item_tensors[names.ITEM_INDEX])
    generator = np.random.default_rng(0)

    def sample(batch: int) -> Tensors:
        rows = generator.integers(0, count, batch)
        tensors = {name: array[rows] for name, array in item_tensors.items()}
        known = generator.integers(0, 2, batch).astype(bool)  # unknown ids are what the tower has to bear too
        tensors[names.ITEM_INDEX] = np.where(known, tensors[names.ITEM_INDEX], 0)
        return tensors

    arguments = (names.ITEM_INDEX, names.TEXT_EMBEDDING, names.CATEGORY_CODES)
    return _export(model.item_tower, arguments, sample, path, _Output(names.ITEM_VECTOR, dim))


def export_user_tower(model: TwoTowerModel, schema: FeatureSchema, path: Path, *, dim: int) -> ExportedTower:
    """Writes the user tower, which reads the last `schema.history_length` events, and of shorter histories no more
    columns than they have."""
    generator = np.random.default_rng(0)
    length = schema.history_length

    def sample(batch: int) -> Tensors:
        events = generator.integers(0, length + 1, batch)  # empty and full histories too
        present = np.arange(length) >= length - events[:, None]
        codes = generator.integers(1, len(names.EVENT_TYPES) + 1, (batch, length))
        ages = -np.sort(-generator.exponential(1e5, (batch, length)), axis=1)
        tensors: Tensors = {
            names.HISTORY_VECTORS: np.where(
                present[..., None], generator.normal(size=(batch, length, dim)), 0.0
            ).astype(np.float32),
            names.HISTORY_EVENT_CODES: np.where(present, codes, 0).astype(np.int64),
            names.HISTORY_AGES: np.where(present, ages, 0.0).astype(np.float32),
        }
        if schema.user_features:
            columns = [generator.integers(0, feature.num_codes, batch) for feature in schema.user_features]
            tensors[names.USER_FEATURE_CODES] = np.stack(columns, axis=1).astype(np.int64)
        if schema.user_ids:
            tensors[names.USER_INDEX] = generator.integers(0, 2, batch).astype(np.int64)
        return tensors

    arguments = (*names.HISTORY, names.USER_FEATURE_CODES, names.USER_INDEX)
    # Of a single column the exporter would conclude that there is never another number of them.
    shorter = names.HISTORY if length > 1 else ()
    return _export(model.user_tower, arguments, sample, path, _Output(names.USER_VECTOR, dim), shorter=shorter)


def export_ranker(ranker: NcfRanker, path: Path) -> ExportedTower:
    """Writes the NCF ranker. Its batch is that of (user, candidate) pairs."""
    shape = ranker.shape
    generator = np.random.default_rng(0)

    def sample(batch: int) -> Tensors:
        tensors: Tensors = {
            name: generator.normal(size=(batch, shape.dim)).astype(np.float32)
            for name in (names.RANKER_USER_VECTOR, names.RANKER_ITEM_VECTOR)
        }
        tensors[names.RANKER_ITEM_INDEX] = generator.integers(0, shape.num_items + 1, batch)
        for name in (names.RANKER_COLLABORATIVE_SCORE, names.RANKER_CONTENT_SCORE):
            tensors[name] = generator.uniform(-1.0, 1.0, batch).astype(np.float32)
        tensors[names.RANKER_USER_INDEX] = generator.integers(0, shape.num_users + 1, batch)
        return {name: tensors[name] for name in shape.arguments}

    return _export(ranker, shape.arguments, sample, path, _Output(names.RANKER_SCORE, None))


@dataclass(frozen=True)
class _Output:
    name: str
    dim: int | None
    """None where each of the batch gives one number."""

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, "float32", ("batch",) if self.dim is None else ("batch", self.dim))


def _export(
    module: nn.Module,
    arguments: Sequence[str],
    sample: _Sample,
    path: Path,
    output: _Output,
    *,
    shorter: Collection[str] = (),
) -> ExportedTower:
    """`arguments` are the parameters of `module.forward` in order; those absent from a sample are passed None. Of those
    in `shorter` the second dimension may be smaller than the sample's."""
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
    return ExportedTower(path, TowerSpec(inputs, (output.spec,)), difference)


def _difference(module: nn.Module, tower: OnnxSession, tensors: Tensors) -> float:
    with torch.inference_mode():
        expected = module(**{name: torch.from_numpy(array) for name, array in tensors.items()}).numpy()
    return float(np.abs(tower(tensors) - expected).max())

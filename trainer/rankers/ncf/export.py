"""Exports NCF to ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tandem.contract import names
from tandem.contract.features import Tensors
from trainer.compute.onnx_export import ExportedNetwork, NetworkOutput, export_network
from trainer.rankers.ncf.network import NcfRanker


def export_ncf(ranker: NcfRanker, path: Path) -> ExportedNetwork:
    """Writes the NCF ranker, whose batch dimension is (user, candidate) pairs."""
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

    return export_network(ranker, shape.arguments, sample, path, NetworkOutput(names.RANKER_SCORE, None))

"""Exports the towers to ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tandem.contract import names
from tandem.contract.features import FeatureSchema, Tensors
from trainer.compute.onnx_export import ExportedNetwork, NetworkOutput, export_network
from trainer.models.two_tower import TwoTowerModel


def export_item_tower(model: TwoTowerModel, item_tensors: Tensors, path: Path, *, dim: int) -> ExportedNetwork:
    """Writes the item tower. `item_tensors` holds the catalogue's inputs; parity is checked on random rows of them."""
    count = len(item_tensors[names.ITEM_INDEX])
    generator = np.random.default_rng(0)

    def sample(batch: int) -> Tensors:
        rows = generator.integers(0, count, batch)
        tensors = {name: array[rows] for name, array in item_tensors.items()}
        known = generator.integers(0, 2, batch).astype(bool)  # the tower must accept unknown ids too
        tensors[names.ITEM_INDEX] = np.where(known, tensors[names.ITEM_INDEX], 0)
        return tensors

    arguments = (names.ITEM_INDEX, names.TEXT_EMBEDDING, names.CATEGORY_CODES)
    return export_network(model.item_tower, arguments, sample, path, NetworkOutput(names.ITEM_VECTOR, dim))


def export_user_tower(model: TwoTowerModel, schema: FeatureSchema, path: Path, *, dim: int) -> ExportedNetwork:
    """Writes the user tower, which reads the last `schema.history_length` events; a batch of shorter histories may have
    fewer columns."""
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
    # From a sample with a single column the exporter would conclude that the number of columns is always 1.
    shorter = names.HISTORY if length > 1 else ()
    return export_network(
        model.user_tower, arguments, sample, path, NetworkOutput(names.USER_VECTOR, dim), shorter=shorter
    )

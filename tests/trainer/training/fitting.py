"""A small fit that takes a second: users who walk along a ring of items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tandem.contract.features import FeatureSchema
from tests.trainer.small_dataset import dataset_of
from trainer.config.train_config import TrainConfig, load_train_config
from trainer.dataset.dataset import leave_last_out
from trainer.features.encoded import Encoded
from trainer.features.schema import build_schema, item_inputs
from trainer.training.fit import FitInputs, FitResult, fit, unreported
from trainer.training.progress import EpochReport
from trainer.training.train import two_tower_metrics
from trainer.training.windows import training_windows

NUM_ITEMS = 30
CPU = torch.device("cpu")


def ring_config(**overrides: str) -> TrainConfig:
    """A small configuration; overrides are written section__name="value"."""
    small = {"towers.embedding_dim": "16", "towers.history_length": "5", "fit.batch_size": "16"}
    return load_train_config(None, {**small, **{key.replace("__", "."): value for key, value in overrides.items()}})


def ring_data(config: TrainConfig) -> Encoded:
    """Sixty users with 3 to 20 events each; every item is the successor of the previous item."""
    generator = np.random.default_rng(0)
    starts, lengths = generator.integers(0, NUM_ITEMS, 60), generator.integers(3, 21, 60)
    histories = [
        ((start + np.arange(length)) % NUM_ITEMS).tolist() for start, length in zip(starts, lengths, strict=True)
    ]
    dataset = dataset_of(histories, num_items=NUM_ITEMS)
    schema: FeatureSchema = build_schema(dataset, config, text_dim=0)
    popularity = dataset.popularity(leave_last_out(dataset, skip=0).num_history_events)
    tensors = item_inputs(
        dataset.catalogue, schema, text_embeddings=np.zeros((NUM_ITEMS, 0), np.float32), popularity=popularity
    )
    return Encoded(dataset=dataset, schema=schema, item_tensors=tensors, content_vectors=None)


def fit_ring(
    config: TrainConfig,
    *,
    num_epochs: int,
    validated: bool = True,
    on_epoch: Callable[[EpochReport], None] = unreported,
    checkpoint_path: Path | None = None,
) -> FitResult:
    """Fits the ring; the metrics are means of HELD_OUT_METRICS over the validation users."""
    encoded = ring_data(config)
    validation = leave_last_out(encoded.dataset, skip=1)
    inputs = FitInputs(
        schema=encoded.schema,
        windows=training_windows(encoded.dataset, encoded.schema, validation.num_history_events),
        item_tensors=encoded.item_tensors,
        popularity=encoded.dataset.popularity(validation.num_history_events),
        num_users=len(encoded.dataset.user_ids),
    )

    def validate(model: object) -> dict[str, float]:
        values = two_tower_metrics(model, encoded, validation)  # type: ignore[arg-type]
        return {name: float(np.mean(value)) for name, value in values.items()}

    return fit(
        inputs,
        config,
        device=CPU,
        num_epochs=num_epochs,
        validate=validate if validated else None,
        on_epoch=on_epoch,
        checkpoint_path=checkpoint_path,
    )

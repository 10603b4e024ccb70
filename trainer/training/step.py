"""A step of training: a batch of windows -> the loss of its positions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tandem.contract import names
from tandem.contract.features import Tensors
from trainer.compute.device import autocast, to_device
from trainer.config.train_config import FitConfig
from trainer.models.history_encoder import Layout
from trainer.models.losses import ItemLoss, Scored
from trainer.models.two_tower import TwoTowerModel
from trainer.training.packing import Packing, pack
from trainer.training.windows import Windows


class TrainingStep:
    """Computes the loss of a batch of windows."""

    def __init__(
        self, model: TwoTowerModel, loss: ItemLoss, windows: Windows, item_tensors: Tensors, config: FitConfig
    ) -> None:
        """`item_tensors` holds the inputs of the item tower for every item."""
        self._model = model
        self._loss = loss
        self._windows = windows
        self._precision = config.precision
        self._device = next(model.parameters()).device
        self._has_ages = bool(windows.ages.any())
        self._item_tensors = {name: torch.from_numpy(array).to(self._device) for name, array in item_tensors.items()}

    def num_positions(self, batch: Tensor) -> int:
        """Number of targets in a batch of windows, (n,) int64."""
        return int(self._windows.lengths[batch].sum())

    def total_weight(self, batch: Tensor) -> float:
        """Sum of the weights of a batch's targets: their number, if all count alike."""
        weights = self._windows.target_weights
        return float(self.num_positions(batch)) if weights is None else float(weights[batch].sum())

    def __call__(self, batch: Tensor) -> Tensor:
        """The mean loss of a batch's positions; `batch` is (n,) int64, at least one window."""
        packing = pack(self._windows.lengths[batch], self._windows.history_rows.shape[1])
        events = (batch[packing.windows], packing.columns)
        history_rows = to_device(self._windows.history_rows[events], self._device)
        targets = to_device(self._windows.target_rows[events], self._device)
        sample = self._loss.sample(targets)
        # Only items of this batch run through the tower; `searchsorted` finds an item's vector among them.
        rows = torch.unique(torch.cat([history_rows, targets, sample.rows]))
        with autocast(self._precision, self._device):
            vectors = encode_items(self._model, self._item_tensors, rows)
            history_vectors = vectors[torch.searchsorted(rows, history_rows)]
            user_vectors = packing.unpacked(self._user_vectors(packing, events, history_vectors))
        # Scores and loss stay in float32: bfloat16 would round scores, which go up to 14, to sixteenths.
        vectors, user_vectors = vectors.float(), user_vectors.float()
        return self._loss(
            Scored(
                user_vectors=user_vectors / self._model.temperature,
                target_rows=targets,
                target_vectors=vectors[torch.searchsorted(rows, targets)],
                sample=sample,
                sample_vectors=vectors[torch.searchsorted(rows, sample.rows)],
                weights=None
                if self._windows.target_weights is None
                else to_device(self._windows.target_weights[events], self._device),
            )
        )

    def _user_vectors(self, packing: Packing, events: tuple[Tensor, Tensor], history_vectors: Tensor) -> Tensor:
        """Vectors after every event, in packed rows.

        `events` holds window and column of each event of `history_vectors`, (events, dim).
        """
        windows = self._windows
        feature_codes = windows.feature_codes[events if windows.feature_codes.dim() == 3 else events[0]]

        def packed(values: Tensor) -> Tensor:
            return to_device(packing.packed(values), self._device)

        return self._model.user_tower.sequence(
            packing.packed(history_vectors),
            packed(windows.event_codes[events]),
            packed(windows.ages[events]) if self._has_ages else None,
            packed(feature_codes),
            packed(windows.user_index[events[0]]),
            layout=Layout(segments=packed(packing.windows + 1), positions=packed(packing.columns)),
        )


def encode_items(model: TwoTowerModel, item_tensors: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Vectors of items: rows (n,) int64 -> (n, dim) float32."""
    text = item_tensors.get(names.TEXT_EMBEDDING)
    categories = item_tensors.get(names.CATEGORY_CODES)
    vectors: Tensor = model.item_tower(
        item_tensors[names.ITEM_INDEX][rows],
        None if text is None else text[rows],
        None if categories is None else categories[rows],
    )
    return vectors

"""The training loop: one optimiser, warm-up, early stopping, a progress bar."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from tandem.contract import names
from tandem.contract.features import FeatureSchema, Tensors
from tandem.contract.vocabulary import MISSING_ROW
from trainer.config import FitConfig, TrainConfig
from trainer.models.losses import Scored, item_loss
from trainer.models.two_tower import TwoTowerModel
from trainer.training.windows import Windows

Validate = Callable[[TwoTowerModel], Mapping[str, float]]
"""Scores a model on validation users; early stopping reads STOPPING_METRIC, then TIE_METRIC."""
STOPPING_METRIC = "recall@10"
TIE_METRIC = "ndcg@10"


@dataclass(frozen=True)
class EpochReport:
    """What one epoch left behind."""

    epoch: int
    """From 1."""
    loss: float
    metrics: Mapping[str, float]
    """Validation metrics by name; empty without validation."""


@dataclass(frozen=True)
class FitResult:
    """The best model of a fit and how it came about."""

    model: TwoTowerModel
    best_epoch: int
    epochs: tuple[EpochReport, ...]


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """What a fit reads."""

    schema: FeatureSchema
    windows: Windows
    item_tensors: Tensors
    """Inputs of the item tower for every item."""
    popularity: npt.NDArray[np.int64]
    """(items,) int64, interactions in the training part."""
    num_users: int


def fit(
    inputs: FitInputs,
    config: TrainConfig,
    *,
    device: torch.device,
    num_epochs: int,
    validate: Validate | None,
    on_epoch: Callable[[EpochReport], None],
) -> FitResult:
    """Trains for at most `num_epochs`.

    With `validate`, training stops once the validation metric has not risen for `patience` epochs, and the best epoch's
    weights are returned; without, the last epoch's.
    """
    torch.manual_seed(config.fit.seed)
    # Without this, threads add up gradients of repeated items in the order in which they happen to finish.
    torch.use_deterministic_algorithms(True, warn_only=True)
    batches = torch.Generator().manual_seed(config.fit.seed)
    model = TwoTowerModel(
        config.towers, inputs.schema, num_items=len(inputs.popularity), num_users=inputs.num_users
    ).to(device)
    step = _TrainingStep(model, inputs, config.fit, device)
    steps_per_epoch = -(-len(inputs.windows) // config.fit.batch_size)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.fit.learning_rate, weight_decay=config.fit.weight_decay, betas=(0.9, 0.98)
    )
    warmup_steps = max(1, config.fit.warmup_epochs * steps_per_epoch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: min(1.0, (done + 1) / warmup_steps))
    best_key, best_epoch, best_weights = (-1.0, -1.0), 0, model.state_dict()
    reports: list[EpochReport] = []
    with tqdm(total=num_epochs, desc="training", unit="epoch") as progress:
        for epoch in range(1, num_epochs + 1):
            model.train()
            losses = []
            for windows in _shuffled(len(inputs.windows), config.fit.batch_size, batches):
                optimiser.zero_grad(set_to_none=True)
                loss = step(windows)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.fit.max_gradient_norm)
                optimiser.step()
                schedule.step()
                losses.append(loss.detach())
            metrics = validate(model) if validate else {}
            report = EpochReport(epoch, float(torch.stack(losses).mean()), metrics)
            reports.append(report)
            on_epoch(report)
            progress.update()
            progress.set_postfix({"loss": f"{report.loss:.3f}", **{k: f"{v:.4f}" for k, v in metrics.items()}})
            if validate is None:
                best_epoch = epoch
                continue
            key = (metrics[STOPPING_METRIC], metrics[TIE_METRIC])
            if key > best_key:
                best_key, best_epoch, best_weights = key, epoch, copy.deepcopy(model.state_dict())
            elif epoch - max(best_epoch, config.fit.warmup_epochs) >= config.fit.patience:
                break
    if validate is not None:
        model.load_state_dict(best_weights)
    return FitResult(model.eval(), best_epoch, tuple(reports))


def unreported(_: EpochReport) -> None:
    """For a fit whose epochs only the progress bar shows."""


class _TrainingStep:
    """The loss of one batch of windows."""

    def __init__(self, model: TwoTowerModel, inputs: FitInputs, config: FitConfig, device: torch.device) -> None:
        self._model = model
        self._windows = inputs.windows
        self._has_ages = bool(inputs.windows.ages.any())
        self._device = device
        self._item_tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.item_tensors.items()}
        self._loss = item_loss(config, torch.from_numpy(inputs.popularity), torch.Generator().manual_seed(config.seed))

    def __call__(self, batch: Tensor) -> Tensor:
        # Histories lie at the right, so what is left of the longest one is padding.
        newest = slice(-int(self._windows.lengths[batch].max()), None)
        history_rows = self._windows.history_rows[batch, newest].to(self._device)
        target_rows = self._windows.target_rows[batch, newest].to(self._device)
        known = target_rows != MISSING_ROW
        targets = target_rows[known]
        sample = self._loss.sample(targets)
        # Only items that this batch touches run through the tower; `place` finds an item's vector among them.
        rows = torch.unique(torch.cat([history_rows[history_rows != MISSING_ROW], targets, sample.rows]))
        vectors = encode_items(self._model, self._item_tensors, rows)
        place = torch.searchsorted(rows, history_rows.clamp(min=0)).clamp(max=len(rows) - 1)
        user_vectors = self._user_vectors(batch, torch.where(history_rows != MISSING_ROW, place, MISSING_ROW), vectors)
        return self._loss(
            Scored(
                user_vectors=user_vectors[known] / self._model.temperature,
                target_rows=targets,
                target_vectors=vectors[torch.searchsorted(rows, targets)],
                sample=sample,
                sample_vectors=vectors[torch.searchsorted(rows, sample.rows)],
            )
        )

    def _user_vectors(self, batch: Tensor, history_places: Tensor, vectors: Tensor) -> Tensor:
        """Vectors after every event of the windows: (windows, history_length, dim)."""
        history = torch.where(
            (history_places != MISSING_ROW)[..., None],
            vectors[history_places.clamp(min=0)],
            torch.zeros_like(vectors[0]),
        )
        newest = slice(-history_places.shape[1], None)
        return self._model.user_tower.sequence(
            history,
            self._windows.event_codes[batch, newest].to(self._device),
            self._windows.ages[batch, newest].to(self._device) if self._has_ages else None,
            self._windows.feature_codes[batch].to(self._device),
            self._windows.user_index[batch].to(self._device),
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


def _shuffled(num_windows: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of windows in random order, (batch_size,) int64, the last one smaller.

    Not sorted by length: the loss is a mean over the positions of a batch, so short histories among themselves would
    weigh more than among long ones.
    """
    yield from torch.split(torch.randperm(num_windows, generator=generator), batch_size)

"""The training loop: one optimiser, a learning rate schedule, early stopping, checkpoints, a progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from tandem.contract.features import FeatureSchema, Tensors
from trainer.compute import distributed
from trainer.compute.device import peak_memory_bytes
from trainer.config.train_config import FitConfig, TrainConfig
from trainer.features.growth import grown_weights
from trainer.models.losses import item_loss
from trainer.models.two_tower import TwoTowerModel
from trainer.training import checkpoint
from trainer.training.checkpoint import TrainState
from trainer.training.progress import EpochReport, Progress
from trainer.training.step import TrainingStep
from trainer.training.windows import Windows

log = structlog.get_logger()

Validate = Callable[[TwoTowerModel], Mapping[str, float]]
"""Scores a model on validation users; early stopping reads STOPPING_METRIC, then TIE_METRIC."""


@dataclass(frozen=True)
class FitResult:
    """The best model of a fit, with the reports of all epochs."""

    model: TwoTowerModel
    best_epoch: int
    epochs: tuple[EpochReport, ...]

    @property
    def interactions_per_second(self) -> float:
        """Mean over the training time of all epochs, without validation."""
        seconds = sum(report.seconds for report in self.epochs)
        return sum(report.interactions_per_second * report.seconds for report in self.epochs) / max(seconds, 1e-9)

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory of any epoch, see `EpochReport.peak_memory_bytes`."""
        return max((report.peak_memory_bytes for report in self.epochs), default=0)


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """Inputs of a fit."""

    schema: FeatureSchema
    windows: Windows
    item_tensors: Tensors
    """Inputs of the item tower for every item."""
    popularity: npt.NDArray[np.int64]
    """(items,) int64, interactions in the training part."""
    num_users: int
    weights: Mapping[str, Tensor] | None = None
    """Weights of an earlier model to begin with; its rows come first here. None for a training from scratch."""


def fit(
    inputs: FitInputs,
    config: TrainConfig,
    *,
    device: torch.device,
    num_epochs: int,
    validate: Validate | None,
    on_epoch: Callable[[EpochReport], None],
    checkpoint_path: Path | None = None,
) -> FitResult:
    """Trains for at most `num_epochs`, together with the other processes of torchrun, if there are any.

    With `validate`, training stops once the validation metric has not risen for `patience` epochs, or after
    `max_minutes`, and the best epoch's weights are returned; without, the last epoch's. Only process 0 validates. With
    `checkpoint_path`, every epoch writes a checkpoint there, and `fit.resume` resumes from an existing checkpoint.
    """
    train_state = _initial_state(inputs, config, device)
    model = train_state.result
    loss = item_loss(config.fit, torch.from_numpy(inputs.popularity), train_state.generators["negatives"])
    step = TrainingStep(train_state.model, loss, inputs.windows, inputs.item_tensors, config.fit)
    progress = Progress()
    steps_per_epoch = -(-len(inputs.windows) // config.fit.batch_size)
    if checkpoint_path is not None and config.fit.resume:
        if checkpoint_path.is_file():
            progress = checkpoint.restore(checkpoint_path, train_state)
            for report in progress.reports:
                on_epoch(report)
        log.info("training_resumed", after_epoch=len(progress.reports), checkpoint=str(checkpoint_path))
    first = len(progress.reports) + 1
    with tqdm(
        total=num_epochs, initial=first - 1, desc="training", unit="epoch", disable=distributed.rank() > 0
    ) as bar:
        for epoch in range(first, num_epochs + 1):
            if progress.is_done:
                break
            started = time.monotonic()
            mean_loss, num_positions = _train_epoch(train_state, step, len(inputs.windows), config.fit)
            seconds = time.monotonic() - started
            metrics = _validated(model, validate)
            report = EpochReport(
                epoch=epoch,
                loss=mean_loss,
                metrics=metrics,
                seconds=seconds,
                interactions_per_second=num_positions / seconds,
                peak_memory_bytes=peak_memory_bytes(device),
            )
            # All processes take the time of process 0: if only some stopped, the others would wait for them.
            progress.minutes = distributed.broadcast(progress.minutes + (time.monotonic() - started) / 60)
            if validate is None:
                progress.trained(report)
            else:
                progress.validated(report, model.state_dict(), config.fit, steps_per_epoch=steps_per_epoch)
            if checkpoint_path is not None:
                checkpoint.save(checkpoint_path, train_state, progress)
            on_epoch(report)
            bar.update()
            shown = {"loss": f"{report.loss:.3f}", **{name: f"{value:.4f}" for name, value in metrics.items()}}
            bar.set_postfix({**shown, "interactions/s": f"{report.interactions_per_second:.0f}"})
    if progress.best_weights:
        model.load_state_dict(progress.best_weights)
    return FitResult(model.eval(), progress.best_epoch, tuple(progress.reports))


def unreported(_: EpochReport) -> None:
    """An `on_epoch` that does nothing: only the progress bar shows the epochs."""


def learning_rate_factor(done: int, *, schedule: str, warmup_steps: int, total_steps: int) -> float:
    """Factor of the peak learning rate after `done` steps: rises linearly, then stays or falls along a cosine."""
    if done < warmup_steps or schedule == "constant":
        return min(1.0, (done + 1) / warmup_steps)
    progress = (done - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _initial_state(inputs: FitInputs, config: TrainConfig, device: torch.device) -> TrainState:
    """A new model with its optimiser. Processes share weights and batches, but not dropout and negatives."""
    seed, own_seed = config.fit.seed, config.fit.seed + 1_000_003 * distributed.rank()
    torch.manual_seed(seed)
    # Without this, threads add up gradients of repeated items in the order in which the threads finish.
    torch.use_deterministic_algorithms(True, warn_only=True)
    model = TwoTowerModel(
        config.towers, inputs.schema, num_items=len(inputs.popularity), num_users=inputs.num_users
    ).to(device)
    if inputs.weights is not None:
        model.load_state_dict(grown_weights(inputs.weights, model))
    if own_seed != seed:
        torch.manual_seed(own_seed)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.fit.learning_rate, weight_decay=config.fit.weight_decay, betas=(0.9, 0.98)
    )
    steps_per_epoch = -(-len(inputs.windows) // config.fit.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda done: learning_rate_factor(
            done,
            schedule=config.fit.schedule,
            warmup_steps=max(1, config.fit.warmup_epochs * steps_per_epoch),
            # The refit, which ends sooner, uses the same total: its rates are then those of the selected epochs.
            total_steps=config.fit.max_epochs * steps_per_epoch,
        ),
    )
    generators = {
        "batches": torch.Generator().manual_seed(seed),
        "negatives": torch.Generator().manual_seed(own_seed),
    }
    average = None
    if config.fit.weight_averaging:
        average = AveragedModel(model, avg_fn=partial(_averaged, decay=config.fit.weight_averaging))
    return TrainState(model=model, average=average, optimiser=optimiser, schedule=schedule, generators=generators)


def _averaged(average: Tensor, current: Tensor, num_averaged: Tensor | int, *, decay: float) -> Tensor:
    """The moving average after another step. It decays faster in the first steps, or the initial weights would stay."""
    steps = float(num_averaged)
    return torch.lerp(current, average, min(decay, (1.0 + steps) / (10.0 + steps)))


def _train_epoch(train_state: TrainState, step: TrainingStep, num_windows: int, config: FitConfig) -> tuple[float, int]:
    """One pass over the windows; returns the mean loss and the number of positions over all processes."""
    train_state.model.train()
    sums = torch.zeros(3, dtype=torch.float64)  # weighted sum of losses, sum of weights, number of positions
    losses: list[Tensor] = []
    weights: list[float] = []
    num_own = 0
    for batch in _shuffled(num_windows, config.batch_size, train_state.generators["batches"]):
        share = batch[distributed.rank() :: distributed.num_processes()]
        train_state.optimiser.zero_grad(set_to_none=True)
        if len(share):
            loss = step(share)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            weights.append(step.total_weight(share))
            num_own += step.num_positions(share)
        distributed.average_gradients(train_state.model.parameters(), weight=weights[-1] if len(share) else 0.0)
        torch.nn.utils.clip_grad_norm_(train_state.model.parameters(), config.max_gradient_norm)
        train_state.optimiser.step()
        train_state.schedule.step()
        if train_state.average is not None:
            train_state.average.update_parameters(train_state.model)
    if losses:
        weight = torch.tensor(weights, dtype=torch.float64)
        loss_sum = (torch.stack(losses).double().cpu() * weight).sum()
        sums = torch.stack([loss_sum, weight.sum(), torch.tensor(num_own, dtype=torch.float64)])
    total_loss, total_weight, num_positions = distributed.total(sums.to(losses[0].device if losses else "cpu")).tolist()
    return total_loss / total_weight, int(num_positions)


def _validated(model: TwoTowerModel, validate: Validate | None) -> Mapping[str, float]:
    """Validation metrics, which process 0 measures and sends to every process; empty without validation."""
    if validate is None:
        return {}
    return distributed.broadcast(dict(validate(model)) if distributed.rank() == 0 else {})


def _shuffled(num_windows: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of windows in random order, (batch_size,) int64; the last batch may be smaller.

    Not sorted by length: the loss is a mean over the positions of a batch, so short histories would weigh more in a
    batch of short histories than in a mixed batch.
    """
    yield from torch.split(torch.randperm(num_windows, generator=generator), batch_size)

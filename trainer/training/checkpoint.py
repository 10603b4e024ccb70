"""Checkpoints: everything that the next epoch depends on, so that a resumed run equals an uninterrupted run.

A checkpoint is written under another name and then renamed: a run killed while writing leaves the previous checkpoint.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from trainer.compute import distributed
from trainer.core.errors import ConfigError
from trainer.core.written_files import written_file
from trainer.models.two_tower import TwoTowerModel
from trainer.training.progress import EpochReport, Progress


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything that a step of training changes."""

    model: TwoTowerModel
    average: AveragedModel | None
    """Moving average of the weights, which is validated and served; None if the model itself is."""
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generators: Mapping[str, torch.Generator]
    """All random generators but PyTorch's global generator, by name."""

    @property
    def result(self) -> TwoTowerModel:
        """The model that is validated and served."""
        if self.average is None:
            return self.model
        averaged = self.average.module
        assert isinstance(averaged, TwoTowerModel)
        return averaged


def save(path: Path, train_state: TrainState, progress: Progress) -> None:
    """Writes a checkpoint. Every process must call this, because each has its own random states. Raises OSError."""
    random_states = distributed.gather(_random_state(train_state))
    if distributed.rank() > 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".tmp")
    saved_progress: dict[str, Any] = {**vars(progress)}
    saved_progress["reports"] = [asdict(report) for report in progress.reports]
    saved = {
        "model": train_state.model.state_dict(),
        "average": train_state.average and train_state.average.state_dict(),
        "optimiser": train_state.optimiser.state_dict(),
        "schedule": train_state.schedule.state_dict(),
        "random_states": random_states,
        "progress": saved_progress,
    }
    try:
        with written_file(staging, RuntimeError):
            torch.save(saved, staging)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def restore(path: Path, train_state: TrainState) -> Progress:
    """Reads a checkpoint into a training state of the same configuration.

    Raises ConfigError if the file cannot be read or another number of processes wrote it.
    """
    device = next(train_state.model.parameters()).device
    try:
        saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        random_states = saved["random_states"]
        train_state.model.load_state_dict(saved["model"])
        if train_state.average is not None:
            train_state.average.load_state_dict(saved["average"])
        train_state.optimiser.load_state_dict(saved["optimiser"])
        train_state.schedule.load_state_dict(saved["schedule"])
        reports = [EpochReport(**report) for report in saved["progress"].pop("reports")]
        progress = Progress(**saved["progress"], reports=reports)
    except (OSError, EOFError, pickle.UnpicklingError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(  # PyTorch's own message has ten lines and is chained below
            f"fit.resume: {path} is not a checkpoint of this configuration; delete it, or set fit.resume=false"
        ) from error
    if len(random_states) != distributed.num_processes():
        raise ConfigError(
            f"fit.resume: {path} was written by {len(random_states)} processes, not {distributed.num_processes()}; "
            "resume with that number of processes, or set fit.resume=false"
        )
    _restore_random_state(random_states[distributed.rank()], train_state)
    return progress


def _random_state(train_state: TrainState) -> dict[str, torch.Tensor]:
    states = {name: generator.get_state() for name, generator in train_state.generators.items()}
    states["torch"] = torch.get_rng_state()
    if next(train_state.model.parameters()).device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random_state(states: Mapping[str, torch.Tensor], train_state: TrainState) -> None:
    for name, generator in train_state.generators.items():
        generator.set_state(states[name].cpu())
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())

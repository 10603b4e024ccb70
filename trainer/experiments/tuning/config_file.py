"""The best configuration of a study, as the TOML file that `train --config` takes."""

from __future__ import annotations

from pathlib import Path

from trainer.config.help import config_toml
from trainer.config.train_config import TrainConfig


def write_config(config: TrainConfig, path: Path) -> None:
    """Writes the file and renames it into position, so that no reader finds half of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".part")
    staging.write_text(config_toml(config, explained=False))
    staging.replace(path)

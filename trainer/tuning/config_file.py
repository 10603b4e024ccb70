"""Writes a training configuration as the TOML file that `trainer.config.load_train_config` reads."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.config import TrainConfig


def config_toml(config: TrainConfig) -> str:
    """Every setting, one table for each section; a setting that is None is left out, as TOML has no such value."""
    tables = []
    for section, values in config.model_dump().items():
        lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None]
        tables.append("\n".join([f"[{section}]", *lines]) + "\n")
    return "\n".join(tables)


def write_config(config: TrainConfig, path: Path) -> None:
    """Puts the file in place in one step, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".part")
    staging.write_text(config_toml(config))
    staging.replace(path)


def _toml(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    # Python writes numbers as TOML does; only its words for true and false differ.
    return repr(value).lower()

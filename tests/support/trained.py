"""A small, really trained model with texts, registered as the champion: its bundle, prepared data and registry."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.manifest import MANIFEST
from tests.support.checkerboard import write_checkerboard
from tests.support.registries import new_registry
from trainer.config.train_config import load_train_config
from trainer.core.settings import Settings
from trainer.data.config import load_data_config
from trainer.pipeline.train_run import RunOptions, train_and_register

_OVERRIDES = {
    **{"towers.embedding_dim": "16", "towers.num_layers": "1", "fit.max_epochs": "6", "text.max_tokens": "32"},
    "ranker.sequential_weights": "0",  # a new item has only the towers' score, which needs a share
}


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """Results of a training run."""

    registry_uri: str
    bundle: Bundle
    prepared: Path
    """Folder of the prepared data."""


def train_checkerboard(folder: Path, *, num_users: int = 12, num_items: int = 40) -> TrainedModel:
    """Trains on a checkerboard in a new folder, in about ten seconds. Items have titles "A <colour> square"."""
    toml = write_checkerboard(folder, num_users=num_users, num_items=num_items)
    settings = Settings(data_dir=folder, registry_uri=new_registry(folder))
    result = train_and_register(
        load_data_config(str(toml), {}), load_train_config(None, _OVERRIDES), settings, RunOptions()
    )
    assert result is not None
    assert result.decision is not None
    assert result.decision.passed
    return TrainedModel(
        registry_uri=settings.registry_uri,
        bundle=read_bundle(Path(result.version.source)),
        prepared=result.prepared.directory,
    )


def copy_bundle(bundle: Bundle, directory: Path, *, model_version: str, catalogue_sequence: int = 0) -> Bundle:
    """Copies a bundle under another model version, as if it had merged changes up to `catalogue_sequence`."""
    shutil.copytree(bundle.directory, directory)
    manifest = replace(bundle.manifest, model_version=model_version, catalogue_sequence=catalogue_sequence)
    (directory / MANIFEST).write_text(manifest.to_json())
    return read_bundle(directory)

"""Warm start: whether training can continue an earlier model, and how."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from tandem.contract.deleted_users import NOBODY, DeletedUsers
from tandem.ops.model_registry import RegisteredVersion
from trainer.config.train_config import TrainConfig
from trainer.core.errors import DataError, RegistryError
from trainer.core.settings import Settings
from trainer.dataset.dataset import Dataset
from trainer.features.encoded import Encoded, encode_dataset
from trainer.features.growth import with_earlier_items, with_earlier_users
from trainer.registry.registry import WEIGHTS, Registry
from trainer.training.plan import TrainingPlan, leave_last_out_plan
from trainer.training.previous_model import PreviousModel

log = structlog.get_logger()

_SHAPE: Final = (
    "embedding_dim",
    "history_length",
    "user_tower",
    "num_layers",
    "num_heads",
    "user_ids",
    "history_features",
    "similarity",
)
"""Keys of [towers] that the weights depend on."""
_TEXT: Final = ("encoder", "max_tokens")
"""Keys of [text] that the text vectors depend on."""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The start of a training: an earlier model, or scratch."""

    previous: PreviousModel | None = None
    """The model to continue; None for a full training."""
    version: RegisteredVersion | None = None
    """The version of `previous`."""
    why_not: str = ""
    """Why training cannot continue the requested version; empty if it can, or if no version was requested."""

    @property
    def version_number(self) -> str:
        """Number of the version that training continues; empty for a full training."""
        return "" if self.version is None else self.version.number

    def __str__(self) -> str:
        if self.version is None:
            return f"scratch: {self.why_not}" if self.why_not else "scratch"
        return f"version {self.version.number} ({self.version.model_version})"

    def checkpoint_name(self, fingerprint: str) -> str:
        """Name of the checkpoint folder, which keeps a warm start apart from a full training on the same data."""
        return f"{fingerprint}-from-{self.version_number}" if self.version_number else fingerprint


def start_of(
    registry: Registry, name: str, dataset: Dataset, config: TrainConfig, *, deleted: DeletedUsers
) -> WarmStart:
    """See `find_warm_start`; an empty name means a full training. Logs a warning if a warm start is impossible."""
    if not name:
        return WarmStart()
    start = find_warm_start(registry, name, dataset, config, deleted=deleted)
    if start.previous is None:
        log.warning("full_training", reason=start.why_not)
    return start


def find_warm_start(
    registry: Registry, name: str, dataset: Dataset, config: TrainConfig, *, deleted: DeletedUsers = NOBODY
) -> WarmStart:
    """The registered version of this number or alias, without `deleted` users, or the reason for a full training.

    Raises RegistryError if there is a champion but no such version.
    """
    if registry.champion() is None:
        return WarmStart(why_not="there is no model yet")
    version = registry.find(name)
    try:
        with tempfile.TemporaryDirectory(prefix="tandem-weights-") as scratch:
            loaded = PreviousModel.load(registry.download_artifacts(version, WEIGHTS, Path(scratch)))
            previous = loaded.forgetting(deleted)
    except (RegistryError, DataError) as error:
        return WarmStart(why_not=str(error))
    why_not = why_incompatible(previous, config) or why_nothing_new(previous, dataset, config)
    if why_not:
        return WarmStart(why_not=f"version {version.number}: {why_not}")
    return WarmStart(previous=previous, version=version)


def encode_warm(dataset: Dataset, start: WarmStart, config: TrainConfig, settings: Settings) -> Encoded:
    """A data set as the towers read it, with the rows and codes of the model that training continues."""
    previous = start.previous
    if previous is None:
        return encode_dataset(dataset, config, settings)
    dataset = with_earlier_items(dataset, previous.catalogue)
    if config.towers.user_ids:
        dataset = with_earlier_users(dataset, previous.user_ids)
    return encode_dataset(dataset, config, settings, extend=previous.schema)


def warm_plan(encoded: Encoded, start: WarmStart) -> TrainingPlan:
    """Leave-last-out. A warm start validates only on choices that the earlier model has not learned."""
    plan = leave_last_out_plan(encoded)
    if start.previous is None:
        return plan
    dataset, validation = encoded.dataset, plan.validation
    num_learned = num_learned_events(start.previous, dataset)
    is_new = unlearned_targets(dataset, num_learned, dataset.lengths - 2)[validation.users]
    return replace(
        plan,
        validation=replace(validation, users=validation.users[is_new], target_rows=validation.target_rows[is_new]),
        weights=start.previous.weights,
    )


def why_incompatible(previous: PreviousModel, config: TrainConfig) -> str:
    """The first key whose value gives the weights another shape or meaning, in words; empty if no key does."""
    for section, keys, earlier, current in (
        ("towers", _SHAPE, previous.towers, config.towers),
        ("text", _TEXT, previous.text, config.text),
    ):
        for key in keys:
            was, now = getattr(earlier, key), getattr(current, key)
            if was != now:
                return f"it was trained with {section}.{key} = {was}, this configuration has {now}"
    return ""


def why_nothing_new(previous: PreviousModel, dataset: Dataset, config: TrainConfig) -> str:
    """The reason if too few users have a new choice to validate on; empty if there are enough."""
    num_users = int(unlearned_targets(dataset, num_learned_events(previous, dataset), dataset.lengths - 2).sum())
    if num_users >= config.warm_start.min_validation_users:
        return ""
    return (
        f"only {num_users} users have a new choice to validate on, and warm_start.min_validation_users is "
        f"{config.warm_start.min_validation_users}"
    )


def num_learned_events(previous: PreviousModel, dataset: Dataset) -> npt.NDArray[np.int64]:
    """(users,) int64, for each user of the data set the number of events that the model has learned from."""
    learned = dict(zip(previous.user_ids, previous.num_learned_events.tolist(), strict=True))
    return np.array([learned.get(user_id, 0) for user_id in dataset.user_ids], dtype=np.int64)


def unlearned_targets(
    dataset: Dataset, num_learned: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """(users,) bool, whether event `targets[u]` of user u is not learned and has an event before it."""
    return (targets >= np.maximum(num_learned, 1)) & (dataset.lengths >= 2)

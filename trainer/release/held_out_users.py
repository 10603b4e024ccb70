"""Whom the gate asks: each user's last interaction today, which neither candidate nor champion has learned from.

Every model holds out each user's last interaction of its day. Today's last one is that or a later one, so no model of
an earlier day has seen it, nor any that such a model was warm-started from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tandem.contract.bundle import read_bundle
from tandem.contract.errors import BundleError
from tandem.contract.held_out_users import HeldOutUser
from trainer.core.errors import DataError
from trainer.dataset.dataset import Dataset, HoldOut, held_out_users, leave_last_out, sample_places


@dataclass(frozen=True, kw_only=True)
class HeldOutSample:
    """Held-out users, and where they come from."""

    users: tuple[HeldOutUser, ...]
    origin: str
    """In words, for the report."""
    num_interactions: int
    """Of the data they come from: more than a model was trained from, unless the model is the newer one."""


def sample_of_dataset(dataset: Dataset, *, max_users: int, name: str) -> HeldOutSample:
    """At most `max_users` users, drawn with a fixed seed, whose held-out item may be recommended today: the bundle of
    an earlier day would still show the others. Raises DataError where there is nobody."""
    hold_out = leave_last_out(dataset, skip=0)
    fair = dataset.catalogue.available[hold_out.target_rows]
    hold_out = HoldOut(hold_out.num_history_events, hold_out.users[fair], hold_out.target_rows[fair])
    if len(hold_out.users) == 0:
        raise DataError(f"{name}: no user has two interactions, so there is nobody to ask the gate's question for")
    return HeldOutSample(
        users=tuple(held_out_users(dataset, hold_out, sample_places(hold_out, max_users))),
        origin=f"last interactions in {name}",
        num_interactions=int(dataset.offsets[-1]),
    )


def sample_of_bundle(directory: Path, *, max_users: int) -> HeldOutSample:
    """The users that a bundle holds itself. Raises DataError where there are none, or they cannot be read."""
    try:
        bundle = read_bundle(directory, verify_checksums=False)
    except BundleError as error:
        raise DataError(
            f"the bundle's own held-out users cannot be read: {error}. Name data with --prepared"
        ) from error
    model_version = bundle.manifest.model_version
    if not bundle.held_out_users:
        raise DataError(f"bundle {model_version} holds no held-out users: name data with --prepared")
    return HeldOutSample(
        users=bundle.held_out_users[:max_users],
        origin=f"the users that bundle {model_version} holds itself",
        num_interactions=bundle.manifest.training_data.num_interactions,
    )

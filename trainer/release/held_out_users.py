"""Held-out users of the gate, with each user's last interaction, which neither candidate nor champion was trained on.

Every training holds out each user's last interaction at its time. A user's last interaction today is the same or a
later one, so no model of an earlier day was trained on it, and neither was a model that it was warm-started from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tandem.contract.bundle import read_bundle
from tandem.contract.errors import BundleError
from tandem.contract.held_out_users import HeldOutUser
from trainer.core.errors import DataError
from trainer.dataset.dataset import Dataset, HoldOut, held_out_users, leave_last_out, sample_positions


@dataclass(frozen=True, kw_only=True)
class HeldOutSample:
    """Held-out users and their origin."""

    users: tuple[HeldOutUser, ...]
    origin: str
    """Where the users come from, as text for the report."""
    num_interactions: int
    """Number of interactions in the data that the users come from. A model trained on more interactions is newer than
    the users, and may have been trained on their targets."""


def sample_of_dataset(dataset: Dataset, *, max_users: int, name: str) -> HeldOutSample:
    """At most `max_users` users, drawn with a fixed seed, whose held-out item may be recommended today.

    Other held-out items would favour the bundle of an earlier day, which still shows them. Raises DataError if there is
    no such user.
    """
    hold_out = leave_last_out(dataset, skip=0)
    is_available = dataset.catalogue.available[hold_out.target_rows]
    hold_out = HoldOut(hold_out.num_history_events, hold_out.users[is_available], hold_out.target_rows[is_available])
    if len(hold_out.users) == 0:
        raise DataError(f"{name}: no user has two interactions, so the gate has no held-out users")
    return HeldOutSample(
        users=tuple(held_out_users(dataset, hold_out, sample_positions(hold_out, max_users))),
        origin=f"last interactions in {name}",
        num_interactions=int(dataset.offsets[-1]),
    )


def sample_of_bundle(directory: Path, *, max_users: int) -> HeldOutSample:
    """The held-out users in a bundle. Raises DataError if there are none, or they cannot be read."""
    try:
        bundle = read_bundle(directory, verify_checksums=False)
    except BundleError as error:
        raise DataError(
            f"the bundle's own held-out users cannot be read: {error}. Give data with --prepared"
        ) from error
    model_version = bundle.manifest.model_version
    if not bundle.held_out_users:
        raise DataError(f"bundle {model_version} has no held-out users: give data with --prepared")
    return HeldOutSample(
        users=bundle.held_out_users[:max_users],
        origin=f"the held-out users of bundle {model_version}",
        num_interactions=bundle.manifest.training_data.num_interactions,
    )

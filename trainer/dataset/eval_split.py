"""Known interactions and targets of an evaluation, under any protocol: leave-last-out, a random split, a split in
time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import Rows
from trainer.dataset.dataset import Dataset, HoldOut, leave_last_out


@dataclass(frozen=True, kw_only=True)
class EvalSplit:
    """The question of an evaluation: given the interactions in `known`, which items does a user choose next?

    A model may be trained on `known`, and items that a user has seen in it may not be recommended to the user again.
    Users and items have the rows of the whole data set.
    """

    name: str
    """"validation" or "test"."""
    known: Dataset
    users: npt.NDArray[np.int64]
    """(evaluated,) int64, users with at least one target; under some protocols, a user may have no history."""
    target_offsets: npt.NDArray[np.int64]
    """(evaluated + 1,) int64: the targets of users[i] are target_offsets[i] to target_offsets[i + 1]."""
    target_rows: Rows
    """(targets,) int64, items; for each user distinct, and not in the user's history."""
    target_ratings: npt.NDArray[np.float32]
    """(targets,) float32; NaN without a rating."""


def leave_last_out_split(dataset: Dataset, *, skip: int) -> EvalSplit:
    """Leave-last-out as `trainer.dataset.dataset.leave_last_out` cuts it: `skip` 0 is the test, 1 the validation."""
    hold_out = leave_last_out(dataset, skip=skip)
    targets = dataset.offsets[hold_out.users] + hold_out.num_history_events[hold_out.users]
    return EvalSplit(
        name="validation" if skip else "test",
        known=dataset.first_events(hold_out.num_history_events),
        users=hold_out.users,
        target_offsets=np.arange(len(hold_out.users) + 1),
        target_rows=hold_out.target_rows,
        target_ratings=dataset.ratings[targets],
    )


def one_target_each(split: EvalSplit, *, seed: int = 0) -> HoldOut:
    """Draws one target, with a fixed seed, of each user with a history. All known interactions are history.

    The choice of epochs and weights by these targets costs as much as under leave-last-out, however many targets users
    have, and every user counts once, as in the metrics. A user's other targets stay among the candidates. Users without
    a history are left out: they are served the most popular items under any choice.
    """
    drawn = split.target_offsets[:-1] + np.random.default_rng(seed).integers(0, np.diff(split.target_offsets))
    has_history = split.known.lengths[split.users] > 0
    return HoldOut(split.known.lengths, split.users[has_history], split.target_rows[drawn[has_history]])

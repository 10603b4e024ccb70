"""The two looks at a data set that one training takes: what validation chooses by, and what the served model learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from trainer.dataset.dataset import Cut, Dataset, HoldOut, everything, leave_last_out
from trainer.dataset.eval_split import EvalSplit, one_target_each
from trainer.features.encoded import Encoded


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What validation chooses by, and what the model that is served learns from. The rows of both are the same."""

    selection: Encoded
    validation: HoldOut
    """In `selection`: epochs, blend and ranker are chosen by it."""
    final: Encoded
    cut: Cut
    """In `final`: the refit learns from all events before it."""
    weights: Mapping[str, Tensor] | None = None
    """Of an earlier model, which both begin with; None for a training from scratch."""


def leave_last_out_plan(encoded: Encoded) -> TrainingPlan:
    """Validates on each user's last event but one; the last is never learned from."""
    return TrainingPlan(
        selection=encoded,
        validation=leave_last_out(encoded.dataset, skip=1),
        final=encoded,
        cut=leave_last_out(encoded.dataset, skip=0),
    )


def plan_of_splits(encoded: Encoded, validation: EvalSplit, known: Dataset) -> TrainingPlan:
    """Validates on a split, one target of each of its users, then learns from all events of `known`.

    Nothing but `validation` and `known` is read of the interactions.
    """
    return TrainingPlan(
        # What the two models read of an item has one shape; as in leave-last-out, the ids are those of the refit.
        selection=encoded.knowing(validation.known, learned_from=known),
        validation=one_target_each(validation),
        final=encoded.knowing(known),
        cut=everything(known),
    )

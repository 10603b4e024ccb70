"""The two views of a data set in a training: for the choices on validation, and for the served model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from trainer.dataset.dataset import Cut, Dataset, HoldOut, everything, leave_last_out
from trainer.dataset.eval_split import EvalSplit, one_target_each
from trainer.features.encoded import Encoded


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The data of the choices on validation, and the data of the served model. Both have the same rows."""

    selection: Encoded
    validation: HoldOut
    """Hold-out of `selection`, which chooses epochs, blend and ranker."""
    final: Encoded
    cut: Cut
    """Cut of `final`: the refit learns from all events before it."""
    weights: Mapping[str, Tensor] | None = None
    """Weights of an earlier model, with which both begin; None for a training from scratch."""


def leave_last_out_plan(encoded: Encoded) -> TrainingPlan:
    """Validates on each user's second-last event; the last event is never learned from."""
    return TrainingPlan(
        selection=encoded,
        validation=leave_last_out(encoded.dataset, skip=1),
        final=encoded,
        cut=leave_last_out(encoded.dataset, skip=0),
    )


def plan_of_splits(encoded: Encoded, validation: EvalSplit, known: Dataset) -> TrainingPlan:
    """Validates on one target of each user of a split, then learns from all events of `known`.

    Of the interactions, only `validation` and `known` are read.
    """
    return TrainingPlan(
        # Both models read item inputs of the same shape; as in leave-last-out, the ids are those of the refit.
        selection=encoded.knowing(validation.known, learned_from=known),
        validation=one_target_each(validation),
        final=encoded.knowing(known),
        cut=everything(known),
    )

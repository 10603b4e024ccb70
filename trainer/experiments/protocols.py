"""Protocols that measure a configuration: the interactions that train, that validate, and that are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from trainer.dataset.eval_split import EvalSplit, leave_last_out_split
from trainer.dataset.splits import draw_splits
from trainer.evaluation.comparison import SEGMENT_METRIC, TABLE_METRICS
from trainer.evaluation.evaluation import FULL_RANKING, SAMPLED
from trainer.experiments.cold_items import COLD_CUTOFF, COLD_SHARE, cold_items, random_recall
from trainer.features.encoded import Encoded
from trainer.training.plan import TrainingPlan, leave_last_out_plan, plan_of_splits

ProtocolKind = Literal["leave-last-out", "random", "time", "cold-items"]
COLD_METRIC: Final = f"recall@{COLD_CUTOFF}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A split, with the sampling of its candidates."""

    split: EvalSplit
    sampling: str
    """FULL_RANKING or SAMPLED."""
    tested: tuple[str, ...] = TABLE_METRICS
    """Metrics of the tables."""
    decisive: str = SEGMENT_METRIC
    """The best baseline by this metric is the one that models are tested against."""
    random_order: Mapping[str, float] = field(default_factory=dict)
    """Expected figures of a random order of the candidates, by metric; empty if they are not reported."""

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.sampling if self.split.name == "test" else f"{self.split.name}, {self.sampling}"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A training, and the questions for its model."""

    kind: ProtocolKind
    description: str
    """One sentence, for reports."""
    plan: TrainingPlan
    validation: EvalSplit
    """Chooses the baselines' hyperparameters. `plan.validation` chooses the towers and the blend."""
    questions: tuple[Question, ...]
    """Their splits have the same known interactions: those of `plan.final` before its cut."""


def protocol_of(encoded: Encoded, kind: ProtocolKind) -> Protocol:
    """Applies a protocol to a data set. Random splits have seed 0, whatever the seed of the training.

    Raises DataError for data that the protocol cannot split, ConfigError for an unknown kind.
    """
    if kind == "leave-last-out":
        return _leave_last_out(encoded)
    return _cold_items(encoded) if kind == "cold-items" else _split(encoded, kind)


def _leave_last_out(encoded: Encoded) -> Protocol:
    test = leave_last_out_split(encoded.dataset, skip=0)
    return Protocol(
        kind="leave-last-out",
        description="Each user's last interaction is asked for, the one before validates.",
        plan=leave_last_out_plan(encoded),
        validation=leave_last_out_split(encoded.dataset, skip=1),
        questions=(Question(split=test, sampling=FULL_RANKING), Question(split=test, sampling=SAMPLED)),
    )


def _split(encoded: Encoded, kind: Literal["random", "time"]) -> Protocol:
    splits = draw_splits(encoded.dataset, kind)
    described = {
        "random": f"80/10/10 of all interactions at random (seed {splits.seed})",
        "time": "80/10/10 of all interactions in the order of time, one cut for all users",
    }
    return Protocol(
        kind=kind,
        description=f"{described[kind]}: the last tenth is asked for, the one before validates, then is learned.",
        plan=plan_of_splits(encoded, splits.validation, splits.test.known),
        validation=splits.validation,
        questions=(Question(split=splits.test, sampling=FULL_RANKING),),
    )


def _cold_items(encoded: Encoded) -> Protocol:
    cold = cold_items(encoded.dataset)
    known = cold.all_choices.known
    validation = leave_last_out_split(known, skip=0)
    splits = [cold.all_choices, cold.last_choice]
    return Protocol(
        kind="cold-items",
        description=(
            f"{COLD_SHARE:.0%} of the items ({len(cold.rows):,}, drawn with seed 0) leave training, then are asked for "
            "among all items; each user's last other interaction validates and is then learned from."
        ),
        plan=plan_of_splits(encoded, validation, known),
        validation=validation,
        questions=tuple(
            Question(
                split=split,
                sampling=FULL_RANKING,
                tested=(COLD_METRIC, *TABLE_METRICS),
                decisive=COLD_METRIC,
                random_order={COLD_METRIC: random_recall(split)},
            )
            for split in splits
            if len(split.users)
        ),
    )

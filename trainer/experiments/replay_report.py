"""The report of a replay, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from tandem.contract.numbers import finite_json
from trainer.evaluation.metrics import BOOTSTRAP_DRAWS, Interval, PerUser
from trainer.experiments.replay import FULL, INCREMENTAL, NEVER, Step
from trainer.results.markdown import markdown_table

METRICS: Final = ("ndcg@10", "recall@10")
DECISIVE: Final = METRICS[0]
MIN_QUALITY_RATIO: Final = 0.97
MAX_TIME_RATIO: Final = 0.25


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """All steps of a replay, and their ratios of quality and time."""

    data: str
    command: str
    steps: tuple[Step, ...]

    def per_user(self, model: str, metric: str) -> PerUser:
        """(users of all steps,) float64: a user counts once for every period that evaluated the user."""
        return np.concatenate([step.evaluations[model].per_user[metric] for step in self.steps])

    def quality_ratio(self, model: str, metric: str = DECISIVE) -> Interval:
        """A model's mean over the mean of full training, with an interval by a paired bootstrap over users."""
        return ratio_of_means(self.per_user(model, metric), self.per_user(FULL, metric))

    def time_ratio(self) -> float:
        """Processor time of all incremental trainings over that of all full trainings."""
        return _total(self.steps, INCREMENTAL) / _total(self.steps, FULL)

    @property
    def reaches_its_goal(self) -> bool:
        """Whether the ratio of quality is at least MIN_QUALITY_RATIO and that of time at most MAX_TIME_RATIO."""
        return self.quality_ratio(INCREMENTAL).mean >= MIN_QUALITY_RATIO and self.time_ratio() <= MAX_TIME_RATIO

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        ratios = {
            model: {metric: vars(self.quality_ratio(model, metric)) for metric in METRICS}
            for model in (INCREMENTAL, NEVER)
        }
        return {
            "data": self.data,
            "command": self.command,
            "num_asked": len(self.per_user(FULL, DECISIVE)),
            "quality_ratio": ratios,
            "time_ratio": self.time_ratio(),
            "reaches_its_goal": self.reaches_its_goal,
            "steps": [_step_dict(step) for step in self.steps],
        }

    def to_json(self) -> str:
        """`to_dict`, for a file."""
        return finite_json(self.to_dict(), indent=2)

    def to_text(self) -> str:
        """The report in Markdown."""
        ratio, never = self.quality_ratio(INCREMENTAL), self.quality_ratio(NEVER)
        recall = self.quality_ratio(INCREMENTAL, METRICS[1])
        return "\n\n".join(
            [
                f"{self.data}, {len(self.steps)} updates. `{self.command}`",
                f"**Quality of incremental training over full training: {DECISIVE} {ratio}, {METRICS[1]} {recall} "
                f"(goal: at least {MIN_QUALITY_RATIO}). Processor time: {self.time_ratio():.3f} (goal: at most "
                f"{MAX_TIME_RATIO}).** A model that never learned from any of the periods: {DECISIVE} {never}.",
                f"In brackets 95 % intervals by a paired bootstrap over the {len(self.per_user(FULL, DECISIVE)):,} "
                f"users asked, {BOOTSTRAP_DRAWS:,} draws.",
                self._quality_table(),
                self._time_table(),
            ]
        )

    def _quality_table(self) -> str:
        models = (NEVER, INCREMENTAL, FULL)
        rows = []
        for step in self.steps:
            means = {model: step.evaluations[model].means()[DECISIVE] for model in models}
            rows.append(
                [
                    str(step.number),
                    datetime.fromtimestamp(step.ends / 1e6, UTC).date().isoformat(),
                    f"{step.num_known:,}",
                    f"{step.num_new:,}",
                    f"{step.num_new_users:,}",
                    f"{step.num_new_items:,}",
                    f"{step.evaluations[FULL].num_users:,}",
                    *(f"{means[model]:.4f}" for model in models),
                    f"{means[INCREMENTAL] / means[FULL]:.3f}" if means[FULL] else "-",
                ]
            )
        heads = ["update", "up to", "interactions", "new", "new users", "new items", "asked"]
        return markdown_table([*heads, *(f"{DECISIVE}, {model}" for model in models), "ratio"], rows)

    def _time_table(self) -> str:
        rows = [
            [
                str(step.number),
                *(f"{step.epochs[model]}" for model in (INCREMENTAL, FULL)),
                *(f"{step.cpu_seconds[model]:.1f}" for model in (INCREMENTAL, FULL)),
                *(f"{step.seconds[model]:.1f}" for model in (INCREMENTAL, FULL)),
                f"{step.cpu_seconds[INCREMENTAL] / step.cpu_seconds[FULL]:.3f}",
            ]
            for step in self.steps
        ]
        heads = [
            f"{quantity}, {model}"
            for quantity in ("best epoch", "processor seconds", "seconds")
            for model in (INCREMENTAL, FULL)
        ]
        return markdown_table(["update", *heads, "ratio of processor seconds"], rows)


def ratio_of_means(values: PerUser, reference: PerUser, *, seed: int = 0) -> Interval:
    """Mean of `values`, (users,), over the mean of `reference`, (users,), with an interval by resampling users.

    Raises ValueError if the reference is 0 for every user.
    """
    if not reference.any():
        raise ValueError("the reference is 0 for every user")
    generator = np.random.default_rng(seed)
    ratios = np.empty(BOOTSTRAP_DRAWS)
    for draw in range(BOOTSTRAP_DRAWS):
        drawn = generator.integers(0, len(values), len(values))
        total = reference[drawn].sum()
        ratios[draw] = values[drawn].sum() / total if total else np.inf
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(values.sum() / reference.sum()), float(low), float(high))


def _total(steps: Sequence[Step], model: str) -> float:
    return sum(step.cpu_seconds[model] for step in steps)


def _step_dict(step: Step) -> dict[str, Any]:
    return {
        "number": step.number,
        "ends": step.ends,
        "num_known": step.num_known,
        "num_new": step.num_new,
        "num_new_users": step.num_new_users,
        "num_new_items": step.num_new_items,
        "num_asked": step.evaluations[FULL].num_users,
        "seconds": dict(step.seconds),
        "cpu_seconds": dict(step.cpu_seconds),
        "epochs": dict(step.epochs),
        "quality": {
            model: {metric: evaluation.means()[metric] for metric in METRICS}
            for model, evaluation in step.evaluations.items()
        },
    }

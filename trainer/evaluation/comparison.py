"""Evaluations side by side: intervals over users, and paired tests against one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from trainer.core.errors import ConfigError, DataError
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.metrics import ACCURACY_METRICS, CUTOFF, Interval, bootstrap_intervals
from trainer.evaluation.significance import holm, sign_flip_p_values

TABLE_METRICS: Final = tuple(f"{metric}@{CUTOFF}" for metric in ACCURACY_METRICS)
"""What is tested against the baseline and stands in the tables, unless a question has a metric of its own."""
SEGMENT_METRIC: Final = f"ndcg@{CUTOFF}"


@dataclass(frozen=True)
class Difference:
    """A model minus the baseline on the same users."""

    interval: Interval
    """Paired bootstrap."""
    p_value: float
    """Sign-flip permutation test, two-sided, adjusted by Holm's method over the models of the comparison."""


@dataclass(frozen=True)
class SegmentResult:
    """SEGMENT_METRIC of one model in one segment."""

    num_users: int
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Evaluations that answered one question; mappings go by the name of the evaluation, then by metric or segment."""

    evaluations: tuple[Evaluation, ...]
    baseline: str
    intervals: Mapping[str, Mapping[str, Interval]]
    """All metrics that users have, those of lists where all evaluations have them."""
    tested: tuple[str, ...]
    """The metrics of the tables."""
    differences: Mapping[str, Mapping[str, Difference]]
    """The tested metrics of all but the baseline."""
    segments: Mapping[str, Mapping[str, SegmentResult]]

    @property
    def protocol(self) -> str:
        """Of all evaluations."""
        return self.evaluations[0].protocol

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        first = self.evaluations[0]
        return {
            "protocol": first.protocol,
            "part": first.split,
            "question": first.question,
            "num_users": first.num_users,
            "num_targets": len(first.ranks),
            "baseline": self.baseline,
            "models": {
                evaluation.name: {
                    "metrics": {name: asdict(value) for name, value in self.intervals[evaluation.name].items()},
                    "totals": dict(evaluation.totals),
                    "segments": {name: asdict(value) for name, value in self.segments[evaluation.name].items()},
                    "differences": {
                        name: asdict(value) for name, value in self.differences.get(evaluation.name, {}).items()
                    },
                }
                for evaluation in self.evaluations
            },
        }


def compare(
    evaluations: Sequence[Evaluation], *, baseline: str, tested: Sequence[str] = TABLE_METRICS, seed: int = 0
) -> Comparison:
    """Puts evaluations side by side; `baseline` is the name of the one that the others are tested against.

    Raises ConfigError for a baseline that is not among them, DataError for evaluations that cannot be compared: of
    different questions or protocols, of one name, or of no user.
    """
    names = [evaluation.name for evaluation in evaluations]
    if baseline not in names:
        raise ConfigError(f"baseline {baseline!r} was not evaluated; there are: {', '.join(names) or 'none'}")
    _check_comparable(evaluations)
    metrics = [name for name in evaluations[0].per_user if all(name in other.per_user for other in evaluations)]
    values = np.stack([np.stack([e.per_user[name] for name in metrics], axis=1) for e in evaluations])
    columns = [metrics.index(name) for name in tested]
    others = [place for place, name in enumerate(names) if name != baseline]
    differences = values[others][:, :, columns] - values[names.index(baseline)][:, columns]  # (others, users, tested)
    # One resample of users for everything.
    intervals = iter(bootstrap_intervals(np.hstack([*values, *differences]), seed=seed))
    by_model = {name: {metric: next(intervals) for metric in metrics} for name in names}
    p_values = [sign_flip_p_values(difference, seed=seed) for difference in differences]
    adjusted = holm(np.reshape(p_values, (len(others), len(tested))))
    by_difference = {
        names[other]: {
            metric: Difference(next(intervals), float(adjusted[place, column])) for column, metric in enumerate(tested)
        }
        for place, other in enumerate(others)
    }
    return Comparison(
        evaluations=tuple(evaluations),
        baseline=baseline,
        intervals=by_model,
        tested=tuple(tested),
        differences=by_difference,
        segments=_segments(evaluations, seed),
    )


def _segments(evaluations: Sequence[Evaluation], seed: int) -> dict[str, dict[str, SegmentResult]]:
    by_model = [evaluation.segments() for evaluation in evaluations]
    results: dict[str, dict[str, SegmentResult]] = {evaluation.name: {} for evaluation in evaluations}
    for segment in by_model[0]:
        values = np.stack([segments[segment][SEGMENT_METRIC] for segments in by_model], axis=1)
        for evaluation, interval in zip(evaluations, bootstrap_intervals(values, seed=seed), strict=True):
            results[evaluation.name][segment] = SegmentResult(len(values), interval)
    return results


def _check_comparable(evaluations: Sequence[Evaluation]) -> None:
    names = [evaluation.name for evaluation in evaluations]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"evaluations of one name cannot be told apart: {', '.join(repeated)}")
    first = evaluations[0]
    if first.num_users == 0:
        raise DataError("no user was evaluated, so there is nothing to compare")
    for other in evaluations[1:]:
        if other.protocol != first.protocol:
            raise DataError(f"{first.name!r} is {first.protocol}, {other.name!r} is {other.protocol}: no comparison")
        if other.question != first.question:
            raise DataError(
                f"{first.name!r} and {other.name!r} were asked different questions (data, split or part differ), so "
                f"their figures cannot be compared: {first.question[:12]} and {other.question[:12]}"
            )

"""Evaluations side by side: confidence intervals over users, and paired tests against a baseline."""

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
"""Default metrics of the tables and of the tests against the baseline."""
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
    """Evaluations of the same question. Mappings are keyed by evaluation name, then by metric or segment."""

    evaluations: tuple[Evaluation, ...]
    baseline: str
    intervals: Mapping[str, Mapping[str, Interval]]
    """All per-user metrics that every evaluation has."""
    tested: tuple[str, ...]
    """The metrics of the tables."""
    differences: Mapping[str, Mapping[str, Difference]]
    """Tested metrics of every evaluation but the baseline."""
    segments: Mapping[str, Mapping[str, SegmentResult]]

    @property
    def protocol(self) -> str:
        """Protocol of all evaluations."""
        return self.evaluations[0].protocol

    def to_dict(self) -> dict[str, Any]:
        """All results, for JSON."""
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
    """Compares evaluations, and tests each of them against the evaluation named `baseline`.

    Raises ConfigError if no evaluation is named `baseline`; DataError if two evaluations have the same name, if their
    questions or protocols differ, or if they have no users.
    """
    names = [evaluation.name for evaluation in evaluations]
    if baseline not in names:
        raise ConfigError(f"baseline {baseline!r} was not evaluated; there are: {', '.join(names) or 'none'}")
    _check_comparable(evaluations)
    metrics = [name for name in evaluations[0].per_user if all(name in e.per_user for e in evaluations)]
    values = np.stack([np.stack([e.per_user[name] for name in metrics], axis=1) for e in evaluations])
    columns = [metrics.index(name) for name in tested]
    rivals = [index for index, name in enumerate(names) if name != baseline]
    differences = values[rivals][:, :, columns] - values[names.index(baseline)][:, columns]  # (rivals, users, tested)
    # One resample of users serves all metrics and differences.
    intervals = iter(bootstrap_intervals(np.hstack([*values, *differences]), seed=seed))
    by_model = {name: {metric: next(intervals) for metric in metrics} for name in names}
    p_values = [sign_flip_p_values(difference, seed=seed) for difference in differences]
    adjusted = holm(np.reshape(p_values, (len(rivals), len(tested))))
    by_difference = {
        names[rival]: {
            metric: Difference(next(intervals), float(adjusted[row, column])) for column, metric in enumerate(tested)
        }
        for row, rival in enumerate(rivals)
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
        raise DataError(f"several evaluations have the same name: {', '.join(repeated)}")
    first = evaluations[0]
    if first.num_users == 0:
        raise DataError("no user was evaluated, so there is nothing to compare")
    for other in evaluations[1:]:
        if other.protocol != first.protocol:
            raise DataError(
                f"{first.name!r} is {first.protocol}, {other.name!r} is {other.protocol}: they cannot be compared"
            )
        if other.question != first.question:
            raise DataError(
                f"{first.name!r} and {other.name!r} were asked different questions (data, split or part differ), so "
                f"their figures cannot be compared: {first.question[:12]} and {other.question[:12]}"
            )

"""A comparison as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trainer.evaluation.comparison import SEGMENT_METRIC, Comparison, Difference
from trainer.evaluation.evaluation import FULL_RANKING
from trainer.evaluation.metrics import BOOTSTRAP_DRAWS, mean_metrics
from trainer.evaluation.significance import PERMUTATIONS

_ABSENT = "-"


def comparison_text(comparison: Comparison) -> str:
    """Tables of accuracy, differences from the baseline, lists and ratings, and segments.

    Under a sampled protocol every metric carries the protocol's label.
    """
    first = comparison.evaluations[0]
    label = "" if comparison.protocol == FULL_RANKING else f"{comparison.protocol}: "
    heads = [f"{label}{metric}" for metric in comparison.tested]
    blocks = [
        f"{comparison.protocol}, {first.split}, {first.num_users} users, {len(first.ranks)} targets. "
        f"In brackets 95 % intervals by bootstrap over users, {BOOTSTRAP_DRAWS:,} draws.",
        markdown_table(
            ["model", *heads],
            (
                [name, *(str(intervals[metric]) for metric in comparison.tested)]
                for name, intervals in comparison.intervals.items()
            ),
        ),
    ]
    if comparison.differences:
        blocks += [
            f"Difference from {comparison.baseline}: paired bootstrap over users, and p of the two-sided sign-flip test"
            f" ({PERMUTATIONS:,} permutations, adjusted by Holm's method).",
            markdown_table(
                ["model", *heads],
                (
                    [name, *(_difference(differences[metric]) for metric in comparison.tested)]
                    for name, differences in comparison.differences.items()
                ),
            ),
        ]
    blocks += [*_lists(comparison), *_segments(comparison, label)]
    return "\n\n".join(blocks)


def _difference(difference: Difference) -> str:
    interval = difference.interval
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}], p {difference.p_value:.4f}"


def _lists(comparison: Comparison) -> list[str]:
    """Totals and list metrics of the models that have any."""
    figures = {e.name: {**mean_metrics(e.list_metrics), **e.totals} for e in comparison.evaluations}
    columns = list(dict.fromkeys(name for values in figures.values() for name in values))
    if not columns:
        return []
    rows = (
        [name, *(f"{values[column]:.4f}" if column in values else _ABSENT for column in columns)]
        for name, values in figures.items()
    )
    return ["Lists and ratings; novelty in bits.", markdown_table(["model", *columns], rows)]


def _segments(comparison: Comparison, label: str) -> list[str]:
    sizes = {name: result.num_users for name, result in comparison.segments[comparison.baseline].items()}
    heads = [f"{name} ({num_users} users)" for name, num_users in sizes.items()]
    rows = (
        [name, *(str(results[segment].interval) for segment in sizes)] for name, results in comparison.segments.items()
    )
    return [f"{label}{SEGMENT_METRIC} by segment.", markdown_table(["model", *heads], rows)]


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; every row has as many cells as `heads`."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

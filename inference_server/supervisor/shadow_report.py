"""`python -m inference_server shadow`: what all workers counted of the shadow models, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from inference_server.core.errors import CommandFailed
from inference_server.supervisor.server_view import ServerView
from inference_server.telemetry.histogram import Histogram
from inference_server.telemetry.shadow_counts import Side
from inference_server.telemetry.shadow_summary import ShadowSummary, shadow_summaries

_EQUALLY_FAST: Final = 0.05
"""Ratios of times that differ from 1 by less are no difference."""


def shadow_report(view: ServerView, names: tuple[str, ...], *, share: float) -> Iterator[str]:
    """The lines of the report, for the versions that serve now; `share` of the requests are shadowed.

    Raises CommandFailed where no shadow is set.
    """
    if not names:
        raise CommandFailed("this server has no shadow: set TANDEM_SHADOW_MODEL to an alias or version, and restart it")
    own_version = "" if view.serving is None else view.serving.report.model_version
    tracks = {track.name: track for track in view.further}
    found = {(summary.model, *_versions(summary)): summary for summary in shadow_summaries(view.statistics)}
    for number, name in enumerate(names):
        track = tracks.get(name)
        version = "" if track is None or track.serving is None else track.serving.report.model_version
        if number:
            yield ""
        pair = f"{name} ({version or 'not in force'}) in the shadow of {view.variant} ({own_version or 'none'})"
        yield f"{pair}, {share:.4g} of the requests"
        if track is not None and track.problem:
            yield f"problem: {track.problem}"
        summary = found.get((name, version, own_version))
        if summary is None:
            yield "nothing was counted yet"
        else:
            yield from _lines(summary)


def _versions(summary: ShadowSummary) -> tuple[str, str]:
    return summary.model_version, summary.own_version


def _lines(summary: ShadowSummary) -> Iterator[str]:
    yield verdict(summary)
    yield f"requests: {_counts(summary.outcomes) or 'none yet'}"
    if summary.degraded:
        yield f"degraded: {_counts(summary.degraded)}"
    if not summary.num_compared:
        return
    own, shadow = summary.sides[Side.OWN], summary.sides[Side.SHADOW]
    yield f"{'':36}{'own':>12}{'shadow':>12}"
    yield _row("time of a batch, median, ms", own.seconds, shadow.seconds, lambda values: 1e3 * values.quantile(0.5))
    yield _row("time of a batch, P99, ms", own.seconds, shadow.seconds, lambda values: 1e3 * values.quantile(0.99))
    yield _row("score, mean", own.scores, shadow.scores, lambda values: values.mean)
    yield _row("score, median", own.scores, shadow.scores, lambda values: values.quantile(0.5))
    yield _row("score, 10% quantile", own.scores, shadow.scores, lambda values: values.quantile(0.1))
    yield _row("score, 90% quantile", own.scores, shadow.scores, lambda values: values.quantile(0.9))
    yield _row("popularity, mean interactions", own.popularity, shadow.popularity, lambda values: values.mean)
    yield _row("categories of a list, mean", own.categories, shadow.categories, lambda values: values.mean)
    difference = summary.score_difference
    if difference.count:
        quantiles = ", ".join(f"{share:.0%} {difference.quantile(share):+.3g}" for share in (0.1, 0.5, 0.9))
        yield f"common items: score of the shadow {difference.mean:+.3g} ({quantiles}); the scales may differ"
        yield f"common items: moved by {summary.rank_shift.mean:.1f} positions on average"


def verdict(summary: ShadowSummary) -> str:
    """The report in one line."""
    compared, answered = summary.num_compared, summary.num_answered
    if not compared:
        return f"cannot say: no answer was compared yet, and {_of(summary.num_faults, answered)} failed"
    parts = [
        f"{summary.overlap.mean:.0%} of the items alike (rank-biased {summary.rank_biased_overlap.mean:.0%})",
        f"the same first item in {summary.num_same_first_item / compared:.0%}",
        _speed(summary),
        f"{_of(summary.num_faults, answered)} failed",
    ]
    if num_degraded := summary.outcomes.get("degraded", 0):
        parts.append(f"{_of(num_degraded, answered)} degraded")
    if summary.num_shorter:
        parts.append(f"{_of(summary.num_shorter, compared)} shorter")
    return "; ".join(parts)


def _speed(summary: ShadowSummary) -> str:
    """By the median of the ratios: an interruption of one of two runs is no property of a model."""
    if not summary.slowdown.count:
        return "speed not measured yet"
    ratio = summary.slowdown.quantile(0.5)
    if abs(ratio - 1.0) < _EQUALLY_FAST:
        words = "as fast"
    else:
        words = f"slower by {ratio:.2g}x" if ratio > 1.0 else f"faster by {1.0 / ratio:.2g}x"
    return f"{words} ({summary.slowdown.count:,} batches timed)"


def _of(number: int, all_of: int) -> str:
    return f"{number:,} of {all_of:,}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items(), key=lambda pair: -pair[1]))


def _row(name: str, own: Histogram, shadow: Histogram, read: Callable[[Histogram], float]) -> str:
    values = (f"{read(side):.4g}" if side.count else "-" for side in (own, shadow))
    return f"{name:36}" + "".join(f"{value:>12}" for value in values)

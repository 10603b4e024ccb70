"""Plots of the report as small SVG files: latency against rate, and the timeline of each event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_LIMIT_MS: Final = 50.0
# Text is kept as text, and the file has no date or random id: the same figures give the same small file.
_STYLE: Final = {"svg.fonttype": "none", "svg.hashsalt": "tandem", "axes.grid": True, "grid.alpha": 0.3}
_SIZE: Final = (7.0, 3.6)


def plot_latency(curves: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Plots P50 and P99 against the offered rate, in one colour per catalogue."""
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
        for number, (size, curve) in enumerate(curves.items()):
            rates = [point["offered_per_second"] for point in curve["points"]]
            for quantile, style in (("p99", "o-"), ("p50", "o:")):
                values = [point["from_schedule_ms"][quantile] for point in curve["points"]]
                axes.plot(rates, values, style, color=f"C{number}", markersize=3, label=f"{size} {quantile.upper()}")
        axes.axhline(_LIMIT_MS, color="grey", linewidth=0.8)
        axes.set(xlabel="requests per second", ylabel="ms", yscale="log", title="Latency of one worker on one core")
        axes.legend(fontsize="x-small", ncols=2)
        _save(figure, path)


def plot_event(
    title: str, timeline: Mapping[str, Sequence[Mapping[str, Any]]], marks: Mapping[str, float | None], path: Path
) -> None:
    """Plots P99 per second above, and the shares of degraded answers, refusals and errors below.

    `marks` are vertical lines: name -> second, or None for an event that did not happen.
    """
    with mpl.rc_context(_STYLE):
        figure, (upper, lower) = plt.subplots(2, 1, figsize=_SIZE, sharex=True, layout="constrained")
        load, label = timeline.get("load"), "load"
        if load is None:
            load, label = timeline["probe"], "probe"
        upper.plot([row["second"] for row in load], [row["p99_ms"] for row in load], label=f"P99 of {label}, ms")
        upper.set(ylabel="ms", yscale="log", title=title)
        server = timeline["server"]
        seconds = [row["second"] for row in server]
        lower.plot(seconds, [row["degraded_share"] for row in server], drawstyle="steps-pre", label="degraded share")
        lower.plot(seconds, [_share(row, "refused") for row in server], drawstyle="steps-pre", label="refused share")
        probe = timeline["probe"]
        errors = [row["errors"] / max(1, row["requests"]) for row in probe]
        lower.plot([row["second"] for row in probe], errors, color="C3", label="errors of the probe, share")
        lower.set(xlabel="seconds", ylim=(-0.05, 1.05))
        for axes in (upper, lower):
            _mark(axes, marks)
            axes.legend(fontsize="x-small", loc="upper right")
        _save(figure, path)


def _share(row: Mapping[str, Any], column: str) -> float:
    return float(row[column]) / max(1, row["answers"] + row["refused"] + row["errors"])


def _mark(axes: Axes, marks: Mapping[str, float | None]) -> None:
    for number, (name, second) in enumerate(marks.items()):
        if second is not None:
            axes.axvline(second, color="black", linewidth=0.8, linestyle=("--", ":")[number % 2])
            axes.annotate(name, (second, 0.02), xycoords=("data", "axes fraction"), fontsize="x-small")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)

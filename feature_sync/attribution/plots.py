"""The plots of the report as plotly figures in JSON. The only module of feature_sync that imports plotly.

Names of scenarios and arms are external text and plotly interprets some HTML in texts, so they are escaped.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from feature_sync.attribution.summaries import Line
from feature_sync.statistics.results import ExperimentResult

_LAYOUT = {
    "template": "plotly_white",
    "margin": {"l": 70, "r": 30, "t": 30, "b": 50},
    "height": 340,
    "legend": {"orientation": "h", "y": 1.15},
}
_ROW_PIXELS = 26
_MAX_TICKED_DAYS = 10


def plotly_js() -> str:
    """Source of the plotting library, for inclusion in a page."""
    return str(get_plotlyjs())


def rates_by_day(lines: Sequence[Line]) -> str:
    """Click-through rate, add-to-cart rate and conversion of every day."""
    days = [line.value for line in lines]
    figure = go.Figure()
    for name, title in (("ctr", "clicked"), ("add_to_cart_rate", "added to cart"), ("conversion", "purchased")):
        figure.add_scatter(x=days, y=[line.counts[name] for line in lines], name=title, mode="lines+markers")
    return _json(
        figure, xaxis=_days(days), yaxis={"title": "share of shown items", "tickformat": ".2%", "rangemode": "tozero"}
    )


def ctr_by_position(lines: Sequence[Line]) -> str:
    """Click-through rate at every position of the answers, from 0."""
    figure = go.Figure(
        go.Bar(x=[int(line.value) for line in lines], y=[line.counts["ctr"] for line in lines], name="clicked")
    )
    return _json(
        figure,
        xaxis={"title": "position", "dtick": 1 if len(lines) <= 30 else None},
        yaxis={"title": "share of shown items", "tickformat": ".2%", "rangemode": "tozero"},
    )


def ctr_by_arm_and_day(lines: Sequence[Line]) -> str:
    """Click-through rate of every arm of one experiment by day."""
    figure = go.Figure()
    for arm in dict.fromkeys(line.arm for line in lines):
        of_arm = [line for line in lines if line.arm == arm]
        figure.add_scatter(
            x=[line.value.rpartition(", ")[2] for line in of_arm],
            y=[line.counts["ctr"] for line in of_arm],
            name=html.escape(arm),
            mode="lines+markers",
        )
    days = [line.value.rpartition(", ")[2] for line in lines]
    return _json(
        figure, xaxis=_days(days), yaxis={"title": "share of shown items", "tickformat": ".2%", "rangemode": "tozero"}
    )


def has_lifts(result: ExperimentResult) -> bool:
    """Whether `lifts` has anything to show."""
    return any(metric.lift and metric.lift.anytime_relative for arm in result.arms for metric in arm.metrics)


def lifts(result: ExperimentResult) -> str:
    """Relative lifts of every metric and arm, with the interval that is valid at any time."""
    figure = go.Figure()
    num_rows = 0
    for arm in result.arms:
        rows = [
            (metric.metric, metric.lift.relative, metric.lift.anytime_relative)
            for metric in arm.metrics
            if metric.lift is not None
            and metric.lift.relative is not None
            and metric.lift.anytime_relative is not None
            and metric.lift.anytime_relative.lower is not None
            and metric.lift.anytime_relative.upper is not None
        ]
        num_rows += len(rows)
        # A row for each arm of a metric: intervals on one line would hide each other.
        figure.add_scatter(
            x=[relative for _, relative, _ in rows],
            y=[[html.escape(name.replace("_", " ")) for name, _, _ in rows], [html.escape(arm.arm)] * len(rows)],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [interval.upper - relative for _, relative, interval in rows],
                "arrayminus": [relative - interval.lower for _, relative, interval in rows],
            },
            mode="markers",
            marker={"size": 9},
            name=html.escape(arm.arm),
        )
    figure.add_vline(x=0, line_color="#888", line_width=1)
    return _json(
        figure,
        height=110 + _ROW_PIXELS * num_rows,
        showlegend=False,
        margin={"l": 220, "r": 30, "t": 10, "b": 50},
        xaxis={"title": f"change against {html.escape(result.control)}", "tickformat": "+.1%"},
        yaxis={"autorange": "reversed"},
    )


def _days(days: Sequence[str]) -> dict[str, object]:
    """The axis of days. Of few, every one has its tick: between two days plotly would write hours, and milliseconds
    around a single one."""
    shown = sorted(set(days))
    ticks = {"tickvals": shown} if len(shown) <= _MAX_TICKED_DAYS else {}
    return {"type": "date", "tickformat": "%Y-%m-%d", **ticks}


def _json(figure: go.Figure, **layout: object) -> str:
    """The figure as JSON in which "<", ">" and "/" are escaped, so that no text can end the script around it."""
    figure.update_layout({**_LAYOUT, **layout})
    return str(figure.to_json())

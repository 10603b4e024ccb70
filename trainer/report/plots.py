"""The plots of a report as plotly figures in JSON. The only module that imports plotly.

Titles are external text and plotly interprets some HTML in texts, so titles are escaped.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from trainer.evaluation.comparison import SegmentResult
from trainer.evaluation.metrics import Interval
from trainer.report.contents import MapPoint
from trainer.training.progress import EpochReport
from trainer.vectors.faiss_index import IndexPoint

_LAYOUT = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 30, "b": 50}, "height": 380}


def plotly_js() -> str:
    """Source of the plotting library, for inclusion in a page."""
    return str(get_plotlyjs())


def learning_curves(epochs: Sequence[EpochReport], best_epoch: int) -> str:
    """Loss and validation metrics by epoch."""
    numbers = [report.epoch for report in epochs]
    figure = go.Figure(
        go.Scatter(x=numbers, y=[report.loss for report in epochs], name="training loss", mode="lines+markers")
    )
    for name in epochs[0].metrics:
        values = [report.metrics.get(name) for report in epochs]
        figure.add_scatter(x=numbers, y=values, name=f"validation {name}", mode="lines+markers", yaxis="y2")
    figure.add_vline(x=best_epoch, line_dash="dot", annotation_text="chosen")
    return _json(
        figure,
        xaxis={"title": "epoch"},
        yaxis={"title": "training loss"},
        yaxis2={"title": "validation metric", "overlaying": "y", "side": "right", "rangemode": "tozero"},
        legend={"orientation": "h", "y": 1.15},
    )


def metric_by_segment(segments: Mapping[str, Mapping[str, SegmentResult]], metric: str) -> str:
    """One metric of every model in every segment, with intervals."""
    figure = go.Figure()
    for model, results in segments.items():
        intervals = [result.interval for result in results.values()]
        figure.add_bar(
            x=[html.escape(name) for name in results],
            y=[interval.mean for interval in intervals],
            error_y=_error_bars(intervals),
            name=html.escape(model),
        )
    return _json(figure, barmode="group", yaxis={"title": metric}, legend={"orientation": "h", "y": 1.15})


def recall_against_latency(points: Sequence[IndexPoint], nprobe: int) -> str:
    """Recall and latency of the index at every nprobe, with the nprobe of serving highlighted."""
    figure = go.Figure(
        go.Scatter(
            x=[point.p50_us for point in points],
            y=[point.recall_at_100 for point in points],
            mode="lines+markers+text",
            text=[f"nprobe {point.nprobe}" for point in points],
            textposition="bottom right",
            marker={
                "size": [14 if point.nprobe == nprobe else 7 for point in points],
                "symbol": ["star" if point.nprobe == nprobe else "circle" for point in points],
            },
            name="median",
        )
    )
    return _json(
        figure,
        xaxis={"title": "microseconds of one search, median", "rangemode": "tozero"},
        yaxis={"title": "recall@100"},
    )


def embedding_map(points: Sequence[MapPoint]) -> str:
    """Items in two dimensions, with one colour for each category."""
    figure = go.Figure()
    for category in dict.fromkeys(point.category for point in points):
        inside = [point for point in points if point.category == category]
        figure.add_scatter(
            x=[point.x for point in inside],
            y=[point.y for point in inside],
            mode="markers",
            marker={"size": 5, "opacity": 0.7},
            text=[html.escape(point.title) for point in inside],
            hoverinfo="text",
            name=html.escape(category),
        )
    return _json(figure, height=560, xaxis={"title": "first component"}, yaxis={"title": "second component"})


def _error_bars(intervals: Sequence[Interval]) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [interval.high - interval.mean for interval in intervals],
        "arrayminus": [interval.mean - interval.low for interval in intervals],
    }


def _json(figure: go.Figure, **layout: object) -> str:
    """The figure as JSON in which "<", ">" and "/" are escaped, so that no text can end the script around it."""
    figure.update_layout({**_LAYOUT, **layout})
    return str(figure.to_json())

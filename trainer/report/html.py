"""A run's report as one HTML file that needs no network: figures and the library that draws them lie inside."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.report.contents import Measured, RunReport
from trainer.report.plots import embedding_map, learning_curves, metric_by_segment, plotly_js, recall_against_latency
from trainer.report.rendering import render

SEGMENT_METRIC = "ndcg@10"


def report_html(report: RunReport) -> str:
    """The page. Sections of which nothing was measured are left out."""
    figures = {}
    if report.epochs:
        figures["learning"] = learning_curves(report.epochs, report.best_epoch)
    with_segments = [model for model in report.measured if model.segments]
    if with_segments:
        figures["segments"] = metric_by_segment(with_segments, SEGMENT_METRIC)
    if report.index_points:
        figures["index"] = recall_against_latency(report.index_points, report.nprobe)
    if report.map_points:
        figures["map"] = embedding_map(report.map_points)
    return render(
        "report.html.j2",
        report=report,
        metric_names=metric_names(report.measured),
        whole_list_names=list(dict.fromkeys(name for model in report.measured for name in model.whole_lists)),
        with_segments=with_segments,
        segment_metric=SEGMENT_METRIC,
        figures=figures,
        plotly_js=plotly_js(),
    )


def metric_names(measured: Sequence[Measured]) -> list[str]:
    """The metrics that any of the models has, in their order."""
    return list(dict.fromkeys(name for model in measured for name in model.metrics))

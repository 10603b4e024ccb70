"""A run's report as one HTML file that needs no network: it includes the figures and the plotting library."""

from __future__ import annotations

from trainer.evaluation.comparison import SEGMENT_METRIC, TABLE_METRICS
from trainer.evaluation.metrics import BOOTSTRAP_DRAWS
from trainer.rendering.render import render
from trainer.report.contents import RunReport
from trainer.report.plots import embedding_map, learning_curves, metric_by_segment, plotly_js, recall_against_latency


def report_html(report: RunReport) -> str:
    """The page, without sections for which nothing was measured."""
    comparison = report.comparison
    figures = {}
    if report.epochs:
        figures["learning"] = learning_curves(report.epochs, report.best_epoch)
    if any(comparison.segments.values()):
        # The table has all models; a plot of a dozen models is unreadable.
        plotted = dict.fromkeys([comparison.evaluations[0].name, comparison.baseline])
        figures["segments"] = metric_by_segment({name: comparison.segments[name] for name in plotted}, SEGMENT_METRIC)
    if report.index_points:
        figures["index"] = recall_against_latency(report.index_points, report.nprobe)
    if report.map_points:
        figures["map"] = embedding_map(report.map_points)
    totals = {evaluation.name: evaluation.totals for evaluation in comparison.evaluations}
    return render(
        "report.html.j2",
        report=report,
        comparison=comparison,
        first=comparison.evaluations[0],
        table_metrics=TABLE_METRICS,
        all_metrics=list(next(iter(comparison.intervals.values()))),
        totals=totals,
        total_names=list(dict.fromkeys(name for values in totals.values() for name in values)),
        segment_metric=SEGMENT_METRIC,
        bootstrap_draws=BOOTSTRAP_DRAWS,
        figures=figures,
        plotly_js=plotly_js(),
    )

"""A shadow model as GetServingStatus shows it."""

from __future__ import annotations

from inference_server.telemetry.histogram import Histogram
from inference_server.telemetry.shadow_counts import Side
from inference_server.telemetry.shadow_summary import ShadowSummary, SideSummary
from tandem.v1 import recommendation_pb2 as pb


def to_comparison(summary: ShadowSummary) -> pb.ShadowComparison:
    """What was counted of one shadow model."""
    return pb.ShadowComparison(
        model=summary.model,
        model_version=summary.model_version,
        own_version=summary.own_version,
        requests=summary.outcomes,
        degraded=summary.degraded,
        overlap=summary.overlap.mean,
        rank_biased_overlap=summary.rank_biased_overlap.mean,
        same_first_item=summary.num_same_first_item,
        same_list=summary.num_same_list,
        shorter=summary.num_shorter,
        own=_side(summary.sides[Side.OWN]),
        shadow=_side(summary.sides[Side.SHADOW]),
        score_difference=_distribution(summary.score_difference),
        rank_shift=_distribution(summary.rank_shift),
        slowdown=_distribution(summary.slowdown),
    )


def _side(side: SideSummary) -> pb.ShadowSide:
    return pb.ShadowSide(
        seconds=_distribution(side.seconds),
        score=_distribution(side.scores),
        popularity=_distribution(side.popularity),
        categories=_distribution(side.categories),
    )


def _distribution(values: Histogram) -> pb.Distribution:
    return pb.Distribution(
        count=values.count,
        mean=values.mean,
        p10=values.quantile(0.1),
        p50=values.quantile(0.5),
        p90=values.quantile(0.9),
        p99=values.quantile(0.99),
    )

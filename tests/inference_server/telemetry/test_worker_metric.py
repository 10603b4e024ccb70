"""Declarations of the workers' metrics."""

from __future__ import annotations

from typing import Any, get_origin, get_type_hints

import pytest

from inference_server.core.breaker import BreakerState
from inference_server.telemetry.statistics import Statistics
from inference_server.telemetry.worker_metric import Merge, WorkerMetric, worker_metrics
from tandem.ops.metrics import Kind


def metric(kind: Kind, merge: Merge, **more: Any) -> WorkerMetric:
    return WorkerMetric("t_metric", "A metric.", kind, unit="things", merge=merge, **more)


@pytest.mark.parametrize(
    ("kind", "merge", "more", "mistake"),
    [
        (Kind.HISTOGRAM, Merge.SUM, {}, "needs buckets"),
        (Kind.COUNTER, Merge.SUM, {"buckets": (1.0,)}, "other kinds have none"),
        (Kind.HISTOGRAM, Merge.MAX, {"buckets": (1.0,)}, "histograms are summed"),
        (Kind.GAUGE, Merge.WORST, {"labels": ("of", "state")}, "needs the severity"),
        (Kind.GAUGE, Merge.MAX, {"labels": ("of", "state"), "severity": {"fine": 0}}, "other merges have none"),
        (Kind.GAUGE, Merge.MIN, {}, "begins at 0"),
        (Kind.GAUGE, Merge.WORST, {"severity": {"fine": 0}}, "begins at 0"),
    ],
)
def test_a_contradiction_is_refused(kind: Kind, merge: Merge, more: dict[str, Any], mistake: str) -> None:
    with pytest.raises(ValueError, match=mistake):
        metric(kind, merge, **more)


def test_a_name_that_ends_as_the_page_ends_it_is_refused() -> None:
    with pytest.raises(ValueError, match="the page adds _total"):
        WorkerMetric("t_calls_total", "Calls.", Kind.COUNTER, unit="calls", merge=Merge.SUM)


def test_no_two_statistics_share_what_they_count() -> None:
    first, second = Statistics(), Statistics()
    first.requests_by_code["OK"] += 1
    first.stage_seconds["rank"].observe(1.0)
    assert second.requests_by_code == {}
    assert second.stage_seconds["rank"].count == 0


@pytest.mark.parametrize("attribute", list(worker_metrics(Statistics)))
def test_an_attribute_begins_as_its_annotation_says(attribute: str) -> None:
    annotated = get_type_hints(Statistics)[attribute]
    expected = {float: (int, float)}.get(annotated, get_origin(annotated) or annotated)
    assert isinstance(getattr(Statistics(), attribute), expected)


def test_every_state_of_a_breaker_has_a_severity() -> None:
    assert set(worker_metrics(Statistics)["breakers"].severity) == set(BreakerState)

"""Counting by bucket."""

from __future__ import annotations

from inference_server.telemetry.histogram import Histogram


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.count == 5
    assert histogram.total == 7.5


def test_histograms_add_bucket_by_bucket() -> None:
    left, right = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    left.observe(0.5)
    right.observe(1.5, 2)
    left.add(right)
    assert (left.counts, left.total) == ([1, 2, 0], 3.5)


def test_quantiles_are_linear_within_a_bucket() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    assert (histogram.mean, histogram.quantile(0.5)) == (0.0, 0.0)
    for value, times in ((0.5, 2), (1.5, 4), (3.0, 2)):
        histogram.observe(value, times)
    assert histogram.mean == 13.0 / 8
    assert [histogram.quantile(share) for share in (0.125, 0.25, 0.5, 0.75, 0.875, 1.0)] == [
        0.5,
        1.0,
        1.5,
        2.0,
        3.0,
        4.0,
    ]
    histogram.observe(100.0, 92)
    assert histogram.quantile(0.5) == 4.0, "what is above the last bound has that bound"
    below_zero = Histogram((-1.0, 1.0))
    below_zero.observe(-5.0)
    assert below_zero.quantile(0.5) == -1.0

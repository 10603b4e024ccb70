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

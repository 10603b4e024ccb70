"""Differences of two scrapes of /metrics."""

from __future__ import annotations

import math

import pytest

from benchmarks.load.metrics import BucketCounts, Scrape

TEXT = """# HELP tandem_requests_total Recommend calls by gRPC status.
# TYPE tandem_requests_total counter
tandem_requests_total{{code="OK",worker="0"}} {ok}
tandem_requests_total{{code="OK",worker="1"}} 1.0
tandem_requests_total{{code="RESOURCE_EXHAUSTED"}} {refused}
tandem_requests_total{{code="INTERNAL"}} 0.0
tandem_answers_total{{source="RETRIEVED"}} {ok}
tandem_degraded_total{{reason="deadline"}} 2.0
tandem_request_seconds_bucket{{le="0.01"}} {refused}
tandem_request_seconds_bucket{{le="0.05"}} {ok}
tandem_request_seconds_bucket{{le="+Inf"}} {ok}
tandem_request_seconds_count {ok}
tandem_http_requests_total{{status="200"}} {ok}
tandem_http_requests_total{{status="429"}} {refused}
tandem_http_requests_total{{status="503"}} {refused}
tandem_http_request_seconds_bucket{{le="+Inf"}} {ok}
process_resident_memory_bytes 1.5e+08
"""


def test_counts_are_summed_over_workers_and_subtracted() -> None:
    before, after = Scrape.parse(TEXT.format(ok=10.0, refused=4.0)), Scrape.parse(TEXT.format(ok=110.0, refused=14.0))
    assert before.requests_by_code["OK"] == 11.0
    counted = after.since(before)
    assert (counted.answered, counted.refused, counted.errors, counted.degraded) == (100.0, 10.0, 0.0, 0.0)
    assert counted.request_seconds.counts == {0.01: 10.0, 0.05: 90.0, math.inf: 0.0}
    assert counted.summary()["answers_by_source"] == {"RETRIEVED": 100}


def test_requests_over_http_are_counted_alike() -> None:
    before, after = Scrape.parse(TEXT.format(ok=10.0, refused=4.0)), Scrape.parse(TEXT.format(ok=110.0, refused=14.0))
    counted = after.since(before).over_http()
    assert (counted.answered, counted.refused, counted.errors) == (100.0, 10.0, 10.0)
    assert counted.request_seconds.counts == {math.inf: 100.0}


def test_a_restarted_workers_lost_counts_are_not_negative() -> None:
    before, after = Scrape.parse(TEXT.format(ok=110.0, refused=0.0)), Scrape.parse(TEXT.format(ok=10.0, refused=0.0))
    assert after.since(before).answered == 0.0


def test_quantiles_are_interpolated_linearly_in_a_bucket() -> None:
    buckets = BucketCounts({0.01: 50, 0.02: 50, math.inf: 0})
    assert buckets.quantile(0.5) == pytest.approx(0.01)
    assert buckets.quantile(0.75) == pytest.approx(0.015)
    assert buckets.share_within(0.01) == 0.5
    assert math.isnan(BucketCounts({0.01: 0, math.inf: 0}).quantile(0.5))
    assert BucketCounts({0.01: 1, math.inf: 99}).quantile(0.5) == 0.01


def test_refusals_do_not_improve_the_latency_of_accepted_requests() -> None:
    buckets = BucketCounts({0.0001: 900, 0.05: 99, 0.1: 1, math.inf: 0})
    assert buckets.quantile(0.99) < 0.05
    assert buckets.quantile(0.995, leaving_out_fastest=900) > 0.05


def test_a_share_within_a_bound_needs_a_bucket_there() -> None:
    with pytest.raises(ValueError, match=r"no bucket ends at 0.03"):
        BucketCounts({0.01: 1, 0.05: 1}).share_within(0.03)

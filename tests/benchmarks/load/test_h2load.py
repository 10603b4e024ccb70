"""Latencies computed from h2load's log."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.load.h2load import Load, LoadResult, due_times, parse_log, quantiles_ms
from benchmarks.load.metrics import BucketCounts, Scrape

# A log of h2load 1.52: start in microseconds since 1970, status, duration in microseconds; by end of response.
LOG = "1795544081653131\t200\t584\n1795544081643293\t200\t20639\n1795544081663865\t-1\t601\n"


def test_a_log_is_read_in_order_of_start() -> None:
    starts, statuses, seconds = parse_log(LOG)
    assert starts.tolist() == pytest.approx([1795544081.643293, 1795544081.653131, 1795544081.663865], abs=1e-6)
    assert statuses.tolist() == [200, 200, -1]
    assert seconds.tolist() == pytest.approx([0.020639, 0.000584, 0.000601])


def test_an_empty_log_is_no_request() -> None:
    starts, statuses, seconds = parse_log("")
    assert len(starts) == len(statuses) == len(seconds) == 0
    assert len(due_times(starts, rate=100, clients=1)) == 0
    assert quantiles_ms(seconds) == {"p50": None, "p95": None, "p99": None, "p99.9": None, "max": None}


def test_quantiles_are_values_that_were_measured() -> None:
    found = quantiles_ms(np.arange(1, 1001) * 1e-3)
    assert found == {"p50": 500.0, "p95": 950.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0}


def test_a_generators_own_ticks_are_not_lateness() -> None:
    starts = 5.0 + np.arange(100) * 0.01 + np.tile([0.0, 0.009], 50)
    np.testing.assert_array_equal(due_times(starts, rate=100, clients=1), starts)


def test_requests_that_were_held_up_count_from_when_they_were_due() -> None:
    on_time = 5.0 + np.arange(100) * 0.01
    starts = on_time.copy()
    starts[40:60] = np.maximum(starts[40:60], on_time[60])  # a stall of 200 ms, caught up with at once
    due = due_times(starts, rate=100, clients=1)
    np.testing.assert_allclose(due[:58], on_time[:58])
    assert (due <= starts).all()


def test_clients_of_a_process_are_due_together() -> None:
    starts = 5.0 + np.repeat(np.arange(10) * 0.02, 4)
    np.testing.assert_allclose(due_times(starts, rate=200, clients=4), starts)


def test_an_open_loop_has_as_many_processes_as_keep_ticks_short() -> None:
    assert Load.at_rate(1000, seconds=1).processes == 10
    assert Load.at_rate(100_000, seconds=1).processes == 32
    assert (Load.in_flight(128, seconds=1).processes, Load.in_flight(128, seconds=1).streams_per_client) == (8, 16)
    assert (Load.in_flight(1, seconds=1).processes, Load.in_flight(1, seconds=1).streams_per_client) == (1, 1)


@pytest.mark.parametrize(
    ("answered", "refused", "degraded", "share"), [(100, 0, 0, 1.0), (60, 40, 0, 0.6), (50, 0, 10, 0.4)]
)
def test_full_answers_exclude_degraded_refused_and_what_the_transport_ended(answered, refused, degraded, share) -> None:
    counted = Scrape(
        requests_by_code={"OK": answered, "RESOURCE_EXHAUSTED": refused},
        answers_by_source={},
        degraded_by_reason={"deadline": degraded},
        request_seconds=BucketCounts({}),
    )
    seconds = np.zeros(100)
    result = LoadResult(
        load=Load(seconds=1),
        starts=seconds,
        from_send=seconds,
        from_schedule=seconds,
        total_answers=100,
        failed=0,
        crashed=0,
    )
    assert result.full_share(counted) == pytest.approx(share)

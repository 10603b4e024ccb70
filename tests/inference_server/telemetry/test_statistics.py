"""Counting, and how Prometheus is shown it."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from inference_server.bundle_check.report import CheckReport
from inference_server.control.snapshot import add, counts_alone, to_plain
from inference_server.core.breaker import Breaker
from inference_server.core.degradation import Degraded, Source
from inference_server.supervisor.checked_bundle import CheckedBundle
from inference_server.supervisor.metrics import StatisticsCollector
from inference_server.supervisor.process_usage import usage
from inference_server.supervisor.registry import RegisteredVersion
from inference_server.supervisor.server_view import ServerView, WorkerView
from inference_server.telemetry.statistics import Histogram, StageClock, Statistics


def shown(view: ServerView) -> str:
    registry = CollectorRegistry()
    registry.register(StatisticsCollector(lambda: view))
    return generate_latest(registry).decode()


def exposed(statistics: Statistics) -> str:
    return shown(ServerView(statistics=statistics))


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.count == 5
    assert histogram.total == 7.5


def test_buckets_are_shown_cumulatively() -> None:
    statistics = Statistics()
    for users in (1, 3, 1000):
        statistics.batch_requests.observe(users)
    text = exposed(statistics)
    assert 'tandem_batch_requests_bucket{le="1"} 1.0' in text
    assert 'tandem_batch_requests_bucket{le="4"} 2.0' in text
    assert 'tandem_batch_requests_bucket{le="+Inf"} 3.0' in text
    assert "tandem_batch_requests_sum 1004.0" in text


def test_answers_reasons_refusals_and_dependencies_are_shown() -> None:
    statistics = Statistics()
    statistics.count_answer(Source.POPULAR, (Degraded.STORE_TIMEOUT, Degraded.DEADLINE))
    statistics.count_refusal("corrupt", "index.faiss is short")
    statistics.dependencies_up["store"] = False
    statistics.dropped_requests = 7
    breaker = Breaker("store", failures_to_open=1, on_change=statistics.watch)
    statistics.watch(breaker)
    breaker.failed()
    text = exposed(statistics)
    assert 'tandem_answers_total{source="POPULAR"} 1.0' in text
    assert 'tandem_answers_total{source="RETRIEVED"} 0.0' in text
    assert 'tandem_degraded_total{reason="store_timeout"} 1.0' in text
    assert 'tandem_degraded_total{reason="deadline"} 1.0' in text
    assert 'tandem_bundle_refused_total{reason_kind="corrupt"} 1.0' in text
    assert 'tandem_dependency_up{dependency="store"} 0.0' in text
    assert "tandem_dropped_requests_total 7.0" in text
    assert 'tandem_breaker_state{breaker="store",state="open"} 1.0' in text
    assert 'tandem_breaker_state{breaker="store",state="closed"} 0.0' in text
    assert statistics.last_refusal == "corrupt: index.faiss is short"


def test_a_backlog_is_one_that_all_workers_see_and_no_sum() -> None:
    total, one, other = Statistics(), Statistics(), Statistics()
    one.stream_backlog = {"events": 7, "item-changes": 1}
    other.stream_backlog = {"events": 9}
    one.events_appended["click"] = 2
    for statistics in (one, other):
        add(total, to_plain(statistics))
    assert total.stream_backlog == {"events": 9, "item-changes": 1}
    kept = Statistics()
    add(kept, counts_alone(to_plain(one)))
    assert (kept.stream_backlog, kept.events_appended) == ({}, {"click": 2}), "a worker that ended sees nothing"
    assert 'tandem_stream_backlog{stream="events"} 9.0' in exposed(total)


def test_model_swap_and_workers_are_shown(tmp_path: Path) -> None:
    report = CheckReport(
        model_version="m-1",
        num_items=1,
        num_golden_queries=1,
        exact_overlap=1.0,
        golden_overlap=1.0,
        recall_at_nprobe=0.97,
        overlap_with_previous=0.5,
    )
    version = RegisteredVersion("7", "m-1", "somewhere")
    view = ServerView(
        statistics=Statistics(),
        workers=[
            WorkerView(worker=1, up=True, restarts=2, usage=usage(os.getpid())),
            WorkerView(worker=2, up=False, restarts=1, usage=None),
        ],
        serving=CheckedBundle(directory=tmp_path, version=version, variant="champion", report=report),
        swap_window_seconds=0.25,
    )
    text = shown(view)
    assert 'tandem_model_info{model_version="m-1",registry_version="7",variant="champion"} 1.0' in text
    assert "tandem_swap_window_seconds 0.25" in text
    assert "tandem_index_recall 0.97" in text
    assert "tandem_bundle_overlap_with_previous 0.5" in text
    assert "tandem_worker_restarts_total 3.0" in text
    assert 'tandem_worker_up{worker="2"} 0.0' in text
    assert 'tandem_worker_resident_memory_bytes{worker="1"}' in text
    assert 'tandem_worker_resident_memory_bytes{worker="2"}' not in text


def test_before_the_first_bundle_nothing_is_made_up() -> None:
    text = shown(ServerView(statistics=Statistics()))
    assert "tandem_model_info{" not in text
    assert "tandem_swap_window_seconds 0" not in text


def test_no_process_has_no_usage() -> None:
    assert usage(1 << 30) is None


def test_statistics_of_workers_add_up_whatever_they_hold() -> None:
    first, second = Statistics(), Statistics()
    for statistics, number in ((first, 1), (second, 10)):
        statistics.requests_by_code["OK"] += number
        statistics.user_tower_runs += number
        statistics.request_seconds.observe(number)
        statistics.stage_seconds["admit"].observe(number)
        statistics.dependencies_up["store"] = number == 1
        statistics.count_answer(Source.POPULAR, (Degraded.DEADLINE,))
        # Fields that another version of this code may have.
        statistics.by_pair = Counter({("a", "b"): number})  # type: ignore[attr-defined]
        statistics.breakers = {"store": "closed" if number == 1 else "open"}  # type: ignore[attr-defined]
    total = Statistics()
    total.by_pair, total.breakers = Counter(), {}  # type: ignore[attr-defined]
    for statistics in (first, second):
        add(total, json.loads(json.dumps(to_plain(statistics))))
    assert total.requests_by_code == {"OK": 11}
    assert total.user_tower_runs == 11
    assert (total.request_seconds.count, total.request_seconds.total) == (2, 11.0)
    assert total.stage_seconds["admit"].counts == [0] * 13 + [1, 1]
    assert total.dependencies_up == {"store": False}
    assert total.answers_by_source[Source.POPULAR] == 2
    assert total.degraded_by_reason[Degraded.DEADLINE] == 2
    assert total.by_pair == {("a", "b"): 11}  # type: ignore[attr-defined]
    assert total.breakers == {"store": "open"}  # type: ignore[attr-defined]
    assert total.started_at_seconds > 0


def test_of_a_worker_that_ended_the_counts_alone_remain() -> None:
    statistics = Statistics()
    statistics.requests_by_code["OK"] += 3
    statistics.dependencies_up["store"] = False
    total = Statistics()
    add(total, counts_alone(to_plain(statistics)))
    assert total.requests_by_code == {"OK": 3}
    assert total.dependencies_up == {}


def test_a_lap_is_counted_for_its_stage_alone() -> None:
    statistics = Statistics()
    clock = StageClock(statistics, 3)
    clock.lap("hydrate")
    clock.lap("rank")
    counts = {stage: histogram.count for stage, histogram in statistics.stage_seconds.items() if histogram.count}
    assert counts == {"hydrate": 3, "rank": 3}, "once for every request of the batch"

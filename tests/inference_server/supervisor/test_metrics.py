"""The page that Prometheus reads, byte for byte, for counts that are known."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Annotated

from prometheus_client import CollectorRegistry, generate_latest

from inference_server.bundle_check.report import CheckReport
from inference_server.control.snapshot import Plain, add, add_ended, to_plain
from inference_server.core.breaker import Breaker
from inference_server.core.canary_status import CanaryStatus
from inference_server.core.degradation import Degraded, Source
from inference_server.core.request_warnings import WarningKind
from inference_server.core.shadow_outcome import ShadowOutcome
from inference_server.core.table_status import TableStatus
from inference_server.supervisor.checked_bundle import CheckedBundle
from inference_server.supervisor.metrics import StatisticsCollector
from inference_server.supervisor.process_usage import ProcessUsage, usage
from inference_server.supervisor.server_view import ServerView, WorkerView
from inference_server.supervisor.track import Track
from inference_server.telemetry.metrics import STAGES, new_seconds
from inference_server.telemetry.shadow_counts import ShadowCounts
from inference_server.telemetry.statistics import Statistics
from inference_server.telemetry.worker_metric import Merge, WorkerMetric
from tandem.ops.metrics import Kind
from tandem.ops.model_registry import RegisteredVersion

GOLDEN = Path(__file__).with_name("metrics_page.txt")
GOLDEN_AT_START = Path(__file__).with_name("metrics_page_at_start.txt")


def page(view: ServerView) -> str:
    registry = CollectorRegistry()
    registry.register(StatisticsCollector(lambda: view))
    return generate_latest(registry).decode()


def busy_worker(number: int) -> Statistics:
    """Statistics in which every metric counts, with other numbers for every worker."""
    statistics = Statistics()
    statistics.requests_by_code.update({"OK": 100 * number, "DEADLINE_EXCEEDED": number})
    statistics.request_seconds.observe(0.004 * number, 3)
    for position, stage in enumerate(STAGES):
        statistics.stage_seconds[stage].observe(0.0001 * number * (position + 1), number)
    statistics.count_answer(Source.RANKED, ())
    for _ in range(number):
        statistics.count_answer(Source.POPULAR, (Degraded.STORE_TIMEOUT, Degraded.DEADLINE))
    statistics.answers_by_model["challenger"] += 5 * number
    statistics.seconds_by_model["challenger"] = new_seconds()
    statistics.seconds_by_model["challenger"].observe(0.003 * number)
    statistics.degraded_by_model["challenger", "arm_unavailable"] += number
    shadow = ShadowCounts(statistics, model="challenger", model_version="two", own_version="one")
    shadow.count(ShadowOutcome.COMPARED)
    shadow.count_degraded(Degraded.RANKER_FAILED)
    shadow.count_lists(same_first_item=True, same_list=False, shorter=number > 1)
    for histogram in (shadow.overlap, shadow.rank_biased_overlap):
        histogram.observe(0.3 * number)
    shadow.rank_shift.observe(number)
    shadow.score_difference.observe(-0.1 * number)
    shadow.slowdown.observe(number)
    for side, histogram in shadow.scores.items():
        histogram.observe(0.25 * number * len(side))
        shadow.popularity[side].observe(20 * number)
        shadow.categories[side].observe(number)
        shadow.seconds[side].observe(0.002 * number)
    statistics.ranker_not_finite["challenger"] += number
    statistics.http_requests_by_status["200"] += number
    statistics.http_requests_by_status[f"50{number}"] += 1
    statistics.http_refused_by_limit["head"] += number
    statistics.http_request_seconds.observe(2.0 * number)
    statistics.batch_requests.observe(8 * number)
    statistics.batch_requests.observe(1000)
    statistics.queue_seconds.observe(0.002)
    statistics.queue_requests = 4 * number
    statistics.dropped_requests = 2 * number
    statistics.many_calls_by_code["OK"] += number
    statistics.many_call_seconds.observe(0.01 * number)
    statistics.many_queries_by_code.update({"OK": 20 * number, "INVALID_ARGUMENT": number})
    statistics.write_calls_by_code["OK"] += number
    statistics.write_call_seconds.observe(0.02 * number)
    statistics.events_appended.update({"click": number, "item_upsert": 1})
    statistics.writes_refused["backlog"] += number
    statistics.append_seconds.observe(0.003)
    statistics.undecodable_by_method["grpc.health.v1.Health/Check"] += number
    statistics.warnings_by_kind[WarningKind.UNKNOWN_CATEGORY] += number
    statistics.stream_backlog = {"events": 10 - number, "item-changes": number}
    statistics.breakers = {
        "store": ("closed", "open", "half_open")[number % 3],
        "ranker": ("half_open", "closed", "closed")[number % 3],
        "events": ("open", "half_open", "half_open")[number % 3],
    }
    statistics.live_items = 100 - number
    statistics.live_dead_rows = number
    statistics.live_waiting = 2 * number
    statistics.live_sequence = 41 * number
    statistics.live_age_seconds = 0.25 * number
    statistics.live_lag_seconds.observe(1.5 * number)
    statistics.user_tower_runs = 7 * number
    statistics.dependencies_up = {"store": number == 1, "events": True}
    statistics.num_unauthenticated = number
    statistics.calls_by_caller["shop"] += 7 * number
    statistics.refused_by_caller["shop"] += 1
    statistics.files_reloaded["api_keys"] += number
    statistics.files_refused["tls_certificates"] += 1
    statistics.num_dropped["traces"] = number
    statistics.num_dropped["impressions"] = 0
    return statistics


def merged() -> Statistics:
    """Merged as by the pool: the counts of the supervisor, of a worker that ended and of two live workers."""
    own, ended, total = Statistics(), Statistics(), Statistics()
    own.bundle_swaps = 3
    own.count_refusal("corrupt", "index.faiss is short")
    own.breakers["registry"] = "half_open"
    gone = busy_worker(1)
    gone.queue_requests = 0
    add_ended(ended, over_the_channel(gone))
    for statistics in (own, ended, busy_worker(1), busy_worker(2)):
        add(total, over_the_channel(statistics))
    return total


def over_the_channel(statistics: Statistics) -> Plain:
    snapshot: Plain = json.loads(json.dumps(to_plain(statistics)))
    return snapshot


def busy_server(directory: Path) -> ServerView:
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
    process = ProcessUsage(resident_memory_bytes=1 << 28, cpu_seconds=12.5, num_threads=9, open_fds=40)
    serving = CheckedBundle(directory=directory, version=version, report=report)
    return ServerView(
        statistics=merged(),
        workers=[
            WorkerView(worker=1, up=True, restarts=2, usage=process),
            WorkerView(worker=2, up=False, restarts=1, usage=None),
        ],
        serving=serving,
        variant="champion",
        further=[
            Track("challenger", is_further=True, serving=serving, problem="version 8 is refused"),
            Track("absent", is_further=True),
        ],
        swap_window_seconds=0.25,
        # Confirmed in the future, so that its age is 0.
        experiments=TableStatus(source="unleash", fingerprint="ab12", confirmed_at_seconds=1e11, num_refused=2),
        canary=CanaryStatus(
            experiment="canary-8",
            registry_version="8",
            model_version="m-2",
            state="running",
            steps=(1.0, 100.0),
            step=1,
            percent=1.0,
            answers=50,
            control_answers=48,
            harmed=3,
            all_answers=5000,
        ),
        canary_moves={"started": 2, "taken_back": 1},
        notifications={"sent": 3, "failed": 1, "dropped": 0},
    )


def test_the_page_of_a_busy_server(tmp_path: Path) -> None:
    assert page(busy_server(tmp_path)) == GOLDEN.read_text()


def test_the_page_before_anything_was_counted() -> None:
    assert page(ServerView(statistics=Statistics())) == GOLDEN_AT_START.read_text()


class WithOneMetricMore(Statistics):
    """All that a new metric needs: this declaration, and a line that counts."""

    cache_reads: Annotated[
        Counter[tuple[str, str]],
        WorkerMetric(
            "tandem_cache_reads",
            "Reads of a cache by outcome.",
            Kind.COUNTER,
            labels=("cache", "outcome"),
            unit="reads",
            merge=Merge.SUM,
        ),
    ]


def test_a_metric_that_was_declared_alone_is_on_the_page_merged_from_two_workers() -> None:
    total = WithOneMetricMore()
    for number in (1, 2):
        worker = WithOneMetricMore()
        worker.cache_reads["lists", "hit"] += number
        worker.cache_reads["lists", "miss"] += 10
        add(total, over_the_channel(worker))
    lines = page(ServerView(statistics=total)).splitlines()
    start = lines.index("# HELP tandem_cache_reads_total Reads of a cache by outcome.")
    assert lines[start + 1 : start + 4] == [
        "# TYPE tandem_cache_reads_total counter",
        'tandem_cache_reads_total{cache="lists",outcome="hit"} 3.0',
        'tandem_cache_reads_total{cache="lists",outcome="miss"} 20.0',
    ]


def test_buckets_are_shown_cumulatively() -> None:
    statistics = Statistics()
    for users in (1, 3, 1000):
        statistics.batch_requests.observe(users)
    text = page(ServerView(statistics=statistics))
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
    text = page(ServerView(statistics=statistics))
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
        serving=CheckedBundle(directory=tmp_path, version=version, report=report),
        variant="champion",
        swap_window_seconds=0.25,
    )
    text = page(view)
    assert 'tandem_model_info{model_version="m-1",registry_version="7",variant="champion"} 1.0' in text
    assert "tandem_swap_window_seconds 0.25" in text
    assert "tandem_index_recall 0.97" in text
    assert "tandem_bundle_overlap_with_previous 0.5" in text
    assert "tandem_worker_restarts_total 3.0" in text
    assert 'tandem_worker_up{worker="2"} 0.0' in text
    assert 'tandem_worker_resident_memory_bytes{worker="1"}' in text
    assert 'tandem_worker_resident_memory_bytes{worker="2"}' not in text


def test_before_the_first_bundle_nothing_is_made_up() -> None:
    text = page(ServerView(statistics=Statistics()))
    assert "tandem_model_info{" not in text
    assert "tandem_swap_window_seconds 0" not in text


def test_no_process_has_no_usage() -> None:
    assert usage(1 << 30) is None

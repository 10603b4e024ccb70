"""Counting, and how Prometheus is shown it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from inference_server.breaker import Breaker
from inference_server.degradation import Degraded, Source
from inference_server.metrics import StatisticsCollector
from inference_server.serving_model import ModelSlot
from inference_server.statistics import Histogram, StageClock, Statistics


def exposed(statistics: Statistics, models: ModelSlot | None = None) -> str:
    registry = CollectorRegistry()
    registry.register(StatisticsCollector(statistics, models or ModelSlot()))
    return generate_latest(registry).decode()


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
    statistics.breakers["store"] = breaker = Breaker("store", failures_to_open=1)
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


def test_the_model_is_shown(models: ModelSlot) -> None:
    text = exposed(Statistics(), models)
    assert 'tandem_model_info{model_version="tiny-1",registry_version="1",variant="champion"} 1.0' in text


def test_a_lap_is_counted_for_its_stage_alone() -> None:
    statistics = Statistics()
    clock = StageClock(statistics, 3)
    clock.lap("hydrate")
    clock.lap("rank")
    counts = {stage: histogram.count for stage, histogram in statistics.stage_seconds.items() if histogram.count}
    assert counts == {"hydrate": 3, "rank": 3}, "once for every request of the batch"

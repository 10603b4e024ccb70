"""The counts of a worker."""

from __future__ import annotations

from inference_server.core.breaker import Breaker
from inference_server.core.degradation import Degraded, Source
from inference_server.telemetry.statistics import Statistics


def test_an_answer_counts_for_its_source_and_for_each_reason() -> None:
    statistics = Statistics()
    statistics.count_answer(Source.POPULAR, (Degraded.STORE_TIMEOUT, Degraded.DEADLINE))
    assert statistics.answers_by_source == {**dict.fromkeys(Source, 0), Source.POPULAR: 1}
    assert statistics.degraded_by_reason.total() == 2


def test_a_refusal_is_counted_by_kind_and_the_last_one_is_kept() -> None:
    statistics = Statistics()
    statistics.count_refusal("corrupt", "index.faiss is short")
    assert statistics.refusals_by_kind == {"corrupt": 1}
    assert statistics.last_refusal == "corrupt: index.faiss is short"


def test_a_watched_breaker_shows_its_state() -> None:
    statistics = Statistics()
    breaker = Breaker("store", failures_to_open=1, on_change=statistics.watch)
    statistics.watch(breaker)
    assert statistics.breakers == {"store": "closed"}
    breaker.failed()
    assert statistics.breakers == {"store": "open"}

"""Statistics of the workers, merged as each metric declares."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Annotated

import pytest

from inference_server.control.snapshot import Plain, add, add_ended, to_plain
from inference_server.core.degradation import Degraded, Source
from inference_server.telemetry.histogram import Histogram
from inference_server.telemetry.statistics import Statistics
from inference_server.telemetry.worker_metric import Merge, WorkerMetric
from tandem.ops.metrics import Kind

SEVERITY = {"fine": 0, "lost": 2, "ailing": 1}


class OneOfEachKind(Statistics):
    """Every combination of kind, labels and merge that a declaration can have."""

    total: Annotated[int, WorkerMetric("t_a", "A.", Kind.COUNTER, unit="calls", merge=Merge.SUM)]
    by_pair: Annotated[
        Counter[tuple[str, str]],
        WorkerMetric("t_b", "B.", Kind.COUNTER, labels=("left", "right"), unit="calls", merge=Merge.SUM),
    ]
    told: Annotated[
        Counter[str], WorkerMetric("t_c", "C.", Kind.COUNTER, labels=("kind",), unit="calls", merge=Merge.MAX)
    ]
    open_calls: Annotated[int, WorkerMetric("t_d", "D.", Kind.GAUGE, unit="calls", merge=Merge.SUM)]
    level: Annotated[float, WorkerMetric("t_e", "E.", Kind.GAUGE, unit="seconds", merge=Merge.MAX)]
    well: Annotated[
        dict[str, bool], WorkerMetric("t_f", "F.", Kind.GAUGE, labels=("of",), unit="0 or 1", merge=Merge.MIN)
    ]
    health: Annotated[
        dict[str, str],
        WorkerMetric(
            "t_g", "G.", Kind.GAUGE, labels=("of", "state"), severity=SEVERITY, unit="0 or 1", merge=Merge.WORST
        ),
    ]
    sizes: Annotated[
        Histogram, WorkerMetric("t_h", "H.", Kind.HISTOGRAM, buckets=(1, 10), unit="items", merge=Merge.SUM)
    ]
    parts: Annotated[
        dict[str, Histogram],
        WorkerMetric(
            "t_i", "I.", Kind.HISTOGRAM, labels=("part",), values=("a", "b"), buckets=(1, 10), unit="s", merge=Merge.SUM
        ),
    ]


def over_the_channel(statistics: Statistics) -> Plain:
    snapshot: Plain = json.loads(json.dumps(to_plain(statistics)))
    return snapshot


def worker(number: int, *, health: str) -> OneOfEachKind:
    statistics = OneOfEachKind()
    statistics.total = number
    statistics.by_pair["a", "b"] = number
    statistics.told["k"] = number
    statistics.open_calls = number
    statistics.level = number / 2
    statistics.well = {"x": number == 1}
    statistics.health = {"x": health}
    statistics.sizes.observe(number)
    statistics.parts["b"].observe(number, 2)
    return statistics


@pytest.mark.parametrize("order", list(itertools.permutations((0, 1, 2))))
def test_every_kind_merges_as_declared_in_any_order(order: tuple[int, ...]) -> None:
    workers = [worker(1, health="fine"), worker(5, health="lost"), worker(20, health="ailing")]
    merged = OneOfEachKind()
    for position in order:
        add(merged, over_the_channel(workers[position]))
    assert merged.total == 26
    assert merged.by_pair == {("a", "b"): 26}
    assert merged.told == {"k": 20}
    assert merged.open_calls == 26
    assert merged.level == 10.0
    assert merged.well == {"x": False}
    assert merged.health == {"x": "lost"}, "the severity decides, and not the alphabet"
    assert (merged.sizes.counts, merged.sizes.total) == ([1, 1, 1], 26.0)
    assert merged.parts["a"].count == 0
    assert (merged.parts["b"].counts, merged.parts["b"].total) == ([2, 2, 2], 52.0)


def test_of_a_worker_that_ended_shares_alone_outlive_it() -> None:
    merged = OneOfEachKind()
    add_ended(merged, over_the_channel(worker(5, health="lost")))
    assert (merged.total, merged.by_pair, merged.sizes.count, merged.parts["b"].count) == (5, {("a", "b"): 5}, 1, 2)
    assert (merged.told, merged.open_calls, merged.level, merged.well, merged.health) == ({}, 0, 0, {}, {})


def test_a_label_that_one_worker_alone_has_is_kept() -> None:
    merged = OneOfEachKind()
    first, second = OneOfEachKind(), OneOfEachKind()
    first.health, second.health = {"x": "ailing"}, {"y": "fine"}
    for statistics in (first, second):
        add(merged, over_the_channel(statistics))
    assert merged.health == {"x": "ailing", "y": "fine"}


def test_an_attribute_that_is_no_metric_here_is_passed_over() -> None:
    statistics = Statistics()
    add(statistics, over_the_channel(worker(5, health="lost")))
    assert not hasattr(statistics, "by_pair")
    assert statistics.last_refusal == ""


def test_an_open_breaker_is_worse_than_a_half_open_one_and_that_than_a_closed_one() -> None:
    merged = Statistics()
    for state in ("half_open", "closed", "open", "half_open"):
        statistics = Statistics()
        statistics.breakers = {"store": state, "ranker": "closed" if state == "open" else state}
        add(merged, over_the_channel(statistics))
    assert merged.breakers == {"store": "open", "ranker": "half_open"}


def test_refusals_that_the_supervisor_tells_its_workers_are_counted_once() -> None:
    own, told, behind = Statistics(), Statistics(), Statistics()
    own.refusals_by_kind = Counter({"corrupt": 3, "overlap": 1})
    told.refusals_by_kind = Counter({"corrupt": 3, "overlap": 1})
    behind.refusals_by_kind = Counter({"corrupt": 2})
    merged = Statistics()
    for statistics in (own, told, behind):
        add(merged, over_the_channel(statistics))
    assert merged.refusals_by_kind == {"corrupt": 3, "overlap": 1}


def test_statistics_of_workers_add_up() -> None:
    first, second = Statistics(), Statistics()
    for statistics, number in ((first, 1), (second, 10)):
        statistics.requests_by_code["OK"] += number
        statistics.user_tower_runs += number
        statistics.request_seconds.observe(number)
        statistics.stage_seconds["admit"].observe(number)
        statistics.dependencies_up["store"] = number == 1
        statistics.count_answer(Source.POPULAR, (Degraded.DEADLINE,))
    total = Statistics()
    for statistics in (first, second):
        add(total, over_the_channel(statistics))
    assert total.requests_by_code == {"OK": 11}
    assert total.user_tower_runs == 11
    assert (total.request_seconds.count, total.request_seconds.total) == (2, 11.0)
    assert total.stage_seconds["admit"].counts == [0] * 13 + [1, 1]
    assert total.dependencies_up == {"store": False}
    assert total.answers_by_source[Source.POPULAR] == 2
    assert total.degraded_by_reason[Degraded.DEADLINE] == 2
    assert total.started_at_seconds > 0


def test_a_backlog_is_one_that_all_workers_see_and_no_sum() -> None:
    total, first, second = Statistics(), Statistics(), Statistics()
    first.stream_backlog = {"events": 7, "item-changes": 1}
    second.stream_backlog = {"events": 9}
    first.events_appended["click"] = 2
    for statistics in (first, second):
        add(total, to_plain(statistics))
    assert total.stream_backlog == {"events": 9, "item-changes": 1}
    kept = Statistics()
    add_ended(kept, to_plain(first))
    assert (kept.stream_backlog, kept.events_appended) == ({}, {"click": 2}), "a worker that ended has no backlog"


def test_of_a_worker_that_ended_the_counts_alone_remain() -> None:
    statistics = Statistics()
    statistics.requests_by_code["OK"] += 3
    statistics.dependencies_up["store"] = False
    statistics.queue_requests = 5
    statistics.live_items = 8
    total = Statistics()
    add_ended(total, to_plain(statistics))
    assert total.requests_by_code == {"OK": 3}
    assert total.dependencies_up == {}
    assert (total.queue_requests, total.live_items) == (0, 0)

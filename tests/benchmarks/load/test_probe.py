"""Figures computed from the probe's samples."""

from __future__ import annotations

from benchmarks.load.probe import Sample, summary, versions_went_back
from benchmarks.load.timeline import probe_timeline
from benchmarks.scenarios.events import seconds_until_full_answers
from benchmarks.scenarios.overload import seconds_until_normal


def _samples(*versions: str, connection: int = 0, seconds: float = 0.001) -> list[Sample]:
    return [
        Sample(due=0.1 * index, seconds=seconds, connection=connection, code="OK", model_version=version)
        for index, version in enumerate(versions)
    ]


def test_an_answer_of_an_older_model_after_a_newer_one_is_found() -> None:
    assert versions_went_back(_samples("a", "a", "b", "b")) == 0
    assert versions_went_back(_samples("a", "b", "a", "b")) == 1


def test_answers_that_overlap_may_come_from_both_sides_of_a_swap() -> None:
    assert versions_went_back(_samples("a", "b", "a", seconds=0.15)) == 0


def test_each_connection_is_checked_separately() -> None:
    # The second connection still gets the old model, because workers swap one after the other.
    assert versions_went_back([*_samples("a", "b", "b"), *_samples("a", "a", "b", connection=1)]) == 0


def test_a_summary_counts_refusals_apart_from_errors() -> None:
    samples = _samples("a")
    for code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
        samples.append(Sample(due=1.0, seconds=0.1, connection=0, code=code))
    found = summary(samples)
    assert (found["errors"], found["codes"]) == (1, {"OK": 1, "RESOURCE_EXHAUSTED": 1, "UNAVAILABLE": 1})
    assert found["model_versions"] == ["a"]


def test_full_answers_are_back_with_the_first_full_second() -> None:
    degraded = {3, 4, 12}
    samples = [
        Sample(
            due=0.1 * index,
            seconds=0.001,
            connection=0,
            code="OK",
            degraded_reasons=("x",) if index in degraded else (),
        )
        for index in range(40)
    ]
    assert seconds_until_full_answers(samples, 0.0) == 1.3
    assert seconds_until_full_answers(samples[:20], 0.0) is None


def test_latency_is_normal_with_the_first_fast_second() -> None:
    samples = [
        Sample(due=0.1 * index, seconds=0.5 if index < 7 else 0.002, connection=0, code="OK") for index in range(40)
    ]
    assert seconds_until_normal(samples, 0.0, limit_seconds=0.005) == 0.7
    assert seconds_until_normal(samples, 0.0, limit_seconds=0.001) is None


def test_a_timeline_has_a_row_for_each_second() -> None:
    rows = probe_timeline(_samples(*["a"] * 15), 0.0, 3)
    assert [row["requests"] for row in rows] == [10, 5, 0]
    assert rows[2]["p99_ms"] is None

"""One line a second of each kind."""

from __future__ import annotations

from inference_server.telemetry.line_limit import LineLimit


def test_one_line_a_second_of_each_kind_and_the_next_says_how_many_were_left_out() -> None:
    now = 0.0
    limit = LineLimit(clock=lambda: now)
    assert [limit.admit("a"), limit.admit("a"), limit.admit("b"), limit.admit("a")] == [0, None, 0, None]
    now = 0.99
    assert limit.admit("a") is None
    now = 1.0
    assert [limit.admit("a"), limit.admit("a"), limit.admit("b")] == [3, None, 0]
    now = 5.0
    assert limit.admit("a") == 1


def test_kinds_without_end_take_no_memory_without_end() -> None:
    limit = LineLimit()
    for number in range(10_000):
        assert limit.admit(number) == 0
    assert len(limit._kinds) <= 1_000

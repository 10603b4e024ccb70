"""What is expected of parts that are not known."""

from __future__ import annotations

import numpy as np
import pytest

from inference_server.model.engine.expectation import expected_others

TOWERS = np.array([[0.0, 1.0, 2.0, 3.0, 9.0]], dtype=np.float32)
COMPARABLE = np.array([[True, True, True, False, False]])


def test_it_lies_on_the_line_of_the_comparable_ones() -> None:
    others = np.array([[1.0, 3.0, 5.0, -50.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(expected_others(TOWERS, others, COMPARABLE)[0, 3:], [7.0, 19.0], rtol=1e-5)


def test_a_better_score_of_the_towers_never_counts_against_an_item() -> None:
    falling = np.array([[5.0, 3.0, 1.0, 0.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(expected_others(TOWERS, falling, COMPARABLE)[0, 3:], [3.0, 3.0], rtol=1e-5)


@pytest.mark.parametrize("comparable", [[True, False, False], [False, False, False]])
def test_one_or_none_to_compare_with(comparable: list[bool]) -> None:
    towers, others = (np.array([row], dtype=np.float32) for row in ([0.5, 0.7, 0.9], [2.0, 0.0, 0.0]))
    expected = 2.0 if any(comparable) else 0.0
    assert expected_others(towers, others, np.array([comparable]))[0, 1:].tolist() == [expected, expected]

"""The expected values of the parts of a score that are unknown."""

from __future__ import annotations

import numpy as np
import pytest

from inference_server.model.engine.expectation import expected_non_tower_scores

TOWER_SCORES = np.array([[0.0, 1.0, 2.0, 3.0, 9.0]], dtype=np.float32)
COMPARABLE = np.array([[True, True, True, False, False]])


def test_it_lies_on_the_line_of_the_comparable_items() -> None:
    non_tower_scores = np.array([[1.0, 3.0, 5.0, -50.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(
        expected_non_tower_scores(TOWER_SCORES, non_tower_scores, COMPARABLE)[0, 3:], [7.0, 19.0], rtol=1e-5
    )


def test_a_better_score_of_the_towers_never_counts_against_an_item() -> None:
    falling = np.array([[5.0, 3.0, 1.0, 0.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(
        expected_non_tower_scores(TOWER_SCORES, falling, COMPARABLE)[0, 3:], [3.0, 3.0], rtol=1e-5
    )


@pytest.mark.parametrize("comparable", [[True, False, False], [False, False, False]])
def test_one_or_none_to_compare_with(comparable: list[bool]) -> None:
    tower_scores = np.array([[0.5, 0.7, 0.9]], dtype=np.float32)
    non_tower_scores = np.array([[2.0, 0.0, 0.0]], dtype=np.float32)
    expected = 2.0 if any(comparable) else 0.0
    filled = expected_non_tower_scores(tower_scores, non_tower_scores, np.array([comparable]))
    assert filled[0, 1:].tolist() == [expected, expected]

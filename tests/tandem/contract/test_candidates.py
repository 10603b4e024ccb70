"""Neighbours of the newest items, in the order in which they become candidates."""

from __future__ import annotations

import numpy as np

from tandem.contract.candidates import best_rows, neighbour_rows
from tandem.contract.vocabulary import MISSING_ROW

NEIGHBOURS = (10 * np.arange(6)[:, None] + np.arange(4)).astype(np.int32)
"""Item i has the neighbours 10 i, 10 i + 1, ..."""


def test_the_nearest_of_each_of_the_newest_items_come_first() -> None:
    history = np.array([[0, 1, 2, 3]])
    assert neighbour_rows(NEIGHBOURS, history, 6, num_events=3).tolist() == [[30, 20, 10, 31, 21, 11]]


def test_the_first_candidates_do_not_depend_on_their_number() -> None:
    history = np.array([[0, 1, 2, 3]])
    few = neighbour_rows(NEIGHBOURS, history, 2, num_events=3)[:, :2]
    assert few.tolist() == neighbour_rows(NEIGHBOURS, history, 12, num_events=3)[:, :2].tolist()


def test_events_and_neighbours_that_are_missing_propose_nothing() -> None:
    neighbours = NEIGHBOURS.copy()
    neighbours[5, 1:] = MISSING_ROW
    history = np.array([[MISSING_ROW, MISSING_ROW, 5], [MISSING_ROW] * 3])
    rows = neighbour_rows(neighbours, history, 6, num_events=3)
    assert rows.tolist() == [[50, -1, -1, -1, -1, -1], [-1] * 6]


def test_short_histories_give_fewer_candidates() -> None:
    assert neighbour_rows(NEIGHBOURS, np.array([[2]]), 3, num_events=3).tolist() == [[20, 21, 22]]


def test_the_highest_scores_above_zero_come_first_without_the_history() -> None:
    scores = np.array([[0.5, 2.0, -1.0, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0, -1.0]], dtype=np.float32)
    history = [np.array([MISSING_ROW, 5]), np.array([MISSING_ROW, 5])]
    assert best_rows(scores, history, 4).tolist() == [[1, 3, 0, -1], [-1, -1, -1, -1]]
    assert best_rows(scores, history, 1).tolist() == [[1], [-1]]
    assert scores[0, 5] == 3.0, "the scores of the caller stay as they are"


def test_the_first_of_the_highest_scores_do_not_depend_on_their_number() -> None:
    scores = np.random.default_rng(0).integers(0, 5, (20, 60)).astype(np.float32)
    history = [np.array([user]) for user in range(20)]
    many = best_rows(scores, history, 60)
    for count in (1, 7, 30):
        assert best_rows(scores, history, count).tolist() == many[:, :count].tolist()
